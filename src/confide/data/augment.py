# SPDX-License-Identifier: Apache-2.0
"""Random views of images, as functions of explicit uniform numbers.

A view depends on its own row of numbers and nothing else, so removing one unit from a batch leaves every
other unit's views as they were. Masks of a segmentation task move with their image. Volumes are moved in
their last two directions, all slices alike. Operations run on the device that the images are on.

| operation | what it does |
|---|---|
| `flip`, `flip-vertical` | mirrors with probability ½ |
| `rotate90` | by 0, 90, 180 or 270 degrees |
| `rotate` | by up to ±15 degrees, bilinear |
| `shift` | by up to an eighth of the side each way, edges repeated |
| `reflect-crop` | pad by a seventh of the side, mirrored, and crop: by 4 pixels at 28 and 32 |
| `crop` | a square of 80 to 100 % of the side, enlarged |
| `brightness` | contrast by ±20 %, brightness by ±0.1 in normalised units |

`[flip, reflect-crop]` are the views of De et al. (2022, arXiv:2204.13650) and Hölzl et al. (2023).
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from confide.errors import ConfigError

Operation = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def _per_row(flag: Tensor, changed: Tensor, same: Tensor) -> Tensor:
    return torch.where(flag.view(-1, *[1] * (same.dim() - 1)), changed, same)


def _flip(images: Tensor, targets: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
    flag = numbers[:, 0] < 0.5
    masks = _per_row(flag, targets.flip(-1), targets) if targets.dim() > 1 else targets
    return _per_row(flag, images.flip(-1), images), masks


def _flip_vertical(images: Tensor, targets: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
    flag = numbers[:, 0] < 0.5
    masks = _per_row(flag, targets.flip(-2), targets) if targets.dim() > 1 else targets
    return _per_row(flag, images.flip(-2), images), masks


def _rotate90(images: Tensor, targets: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
    turns = (numbers[:, 0] * 4).floor().long()
    turned, masks = images, targets
    for quarter in range(1, 4):
        flag = turns == quarter
        turned = _per_row(flag, images.rot90(quarter, (-2, -1)), turned)
        if targets.dim() > 1:
            masks = _per_row(flag, targets.rot90(quarter, (-2, -1)), masks)
    return turned, masks


def _shift(images: Tensor, targets: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """By up to an eighth of the side each way; edge pixels are repeated, masks are filled with class 0."""
    y, x = _places(images, numbers, 8)
    height, width = images.shape[-2:]
    inside = ((y >= 0) & (y < height))[:, :, None] & ((x >= 0) & (x < width))[:, None, :]
    y, x = y.clamp(0, height - 1), x.clamp(0, width - 1)
    if targets.dim() == 1:
        return _taken(images, y, x), targets
    return _taken(images, y, x), _taken(targets[:, None], y, x)[:, 0].masked_fill(~inside, 0)


def _reflect_crop(images: Tensor, targets: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """By up to a seventh of the side each way; image and mask are mirrored at the edge, which is not
    doubled."""
    y, x = (
        (side - 1) - ((side - 1) - place.abs()).abs()
        for side, place in zip(images.shape[-2:], _places(images, numbers, 7), strict=True)
    )
    masks = targets if targets.dim() == 1 else _taken(targets[:, None], y, x)[:, 0]
    return _taken(images, y, x), masks


def _places(images: Tensor, numbers: Tensor, share: int) -> tuple[Tensor, Tensor]:
    """Rows (B, H) and columns (B, W) that a view moved by at most 1/share of the side takes its pixels
    from."""
    height, width = images.shape[-2:]
    most = max(1, min(height, width) // share)
    by = (numbers[:, :2] * (2 * most + 1)).floor().long() - most
    down, across = (torch.arange(side, device=images.device) for side in (height, width))
    return down + by[:, :1], across + by[:, 1:2]


def _taken(images: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Pixels of (B, C, H, W) at the rows and columns of each."""
    row = torch.arange(len(images), device=images.device)
    return images.movedim(1, -1)[row[:, None, None], y[:, :, None], x[:, None, :]].movedim(-1, 1)


def _brightness(images: Tensor, targets: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Contrast by ±20 % and brightness by ±0.1 in normalised units."""
    gain = (0.8 + 0.4 * numbers[:, 0]).to(images.dtype).view(-1, *[1] * (images.dim() - 1))
    offset = (0.2 * numbers[:, 1] - 0.1).to(images.dtype).view_as(gain)
    return images * gain + offset, targets


def _rotate(images: Tensor, targets: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """By up to ±15 degrees, bilinear; masks by nearest neighbour."""
    angle = (numbers[:, 0] * 2 - 1) * (torch.pi / 12)
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    theta = torch.stack([torch.stack([cos, -sin, zero], 1), torch.stack([sin, cos, zero], 1)], 1).to(
        images.dtype
    )
    return _resample(images, targets, theta)


def _crop(images: Tensor, targets: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """A square of 80 to 100 % of the side, anywhere inside, enlarged to the whole; bilinear."""
    part = 0.8 + 0.2 * numbers[:, 0]
    x, y = ((numbers[:, k] * 2 - 1) * (1 - part) for k in (1, 2))
    zero = torch.zeros_like(part)
    theta = torch.stack([torch.stack([part, zero, x], 1), torch.stack([zero, part, y], 1)], 1)
    return _resample(images, targets, theta.to(images.dtype))


def _resample(images: Tensor, targets: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
    """Images by bilinear interpolation with repeated edges; masks by nearest neighbour, class 0 outside."""
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    turned = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    if targets.dim() == 1:
        return turned, targets
    masks = F.grid_sample(targets[:, None].to(images.dtype), grid, mode="nearest", align_corners=False)
    return turned, masks[:, 0].round().to(targets.dtype)


# name -> (operation, uniform numbers it takes)
OPERATIONS: dict[str, tuple[Operation, int]] = {
    "flip": (_flip, 1),
    "flip-vertical": (_flip_vertical, 1),
    "rotate90": (_rotate90, 1),
    "shift": (_shift, 2),
    "reflect-crop": (_reflect_crop, 2),
    "rotate": (_rotate, 1),
    "crop": (_crop, 3),
    "brightness": (_brightness, 2),
}


@dataclass(frozen=True)
class Augmentation:
    """Operations applied one after the other to each row."""

    names: tuple[str, ...]

    @classmethod
    def of(cls, names: Sequence[str]) -> Augmentation:
        """From names.

        Raises:
            ConfigError: If a name is unknown; says the nearest.
        """
        for name in names:
            if name not in OPERATIONS:
                near = difflib.get_close_matches(name, OPERATIONS, n=1)
                remedy = f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(OPERATIONS)}."
                raise ConfigError(f"unknown augmentation {name!r}", remedy=remedy)
        return cls(tuple(names))

    @property
    def draws(self) -> int:
        """How many uniform numbers one view takes."""
        return sum(OPERATIONS[name][1] for name in self.names)

    def __call__(self, images: Tensor, targets: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        """One view of every row.

        images (B, C, H, W) or (B, C, D, H, W), targets (B,) or (B, H, W), uniforms (B, draws) in [0, 1).
        """
        uniforms, shape = uniforms.to(images.device), images.shape
        if len(shape) == 5:
            images = images.flatten(1, 2)
        start = 0
        for name in self.names:
            operation, draws = OPERATIONS[name]
            images, targets = operation(images, targets, uniforms[:, start : start + draws])
            start += draws
        return (images.unflatten(1, shape[1:3]) if len(shape) == 5 else images), targets
