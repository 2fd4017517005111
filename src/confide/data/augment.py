# SPDX-License-Identifier: Apache-2.0
"""Random views of images, as functions of explicit uniform numbers.

A view depends on its own row of numbers and nothing else, so removing one unit from a batch leaves every
other unit's views as they were. Masks of a segmentation task move with their image.
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
    rows, height, width = len(images), images.shape[-2], images.shape[-1]
    most = max(1, min(height, width) // 8)
    by = (numbers[:, :2] * (2 * most + 1)).floor().long() - most
    y = (torch.arange(height, device=images.device) + by[:, :1]).clamp_(0, height - 1)
    x = (torch.arange(width, device=images.device) + by[:, 1:2]).clamp_(0, width - 1)
    row = torch.arange(rows, device=images.device)
    moved = images.movedim(1, -1)[row[:, None, None], y[:, :, None], x[:, None, :]].movedim(-1, 1)
    if targets.dim() == 1:
        return moved, targets
    masks = targets[row[:, None, None], y[:, :, None], x[:, None, :]]
    outside_y = (torch.arange(height, device=images.device) + by[:, :1] < 0) | (
        torch.arange(height, device=images.device) + by[:, :1] >= height
    )
    outside_x = (torch.arange(width, device=images.device) + by[:, 1:2] < 0) | (
        torch.arange(width, device=images.device) + by[:, 1:2] >= width
    )
    return moved, masks.masked_fill(outside_y[:, :, None] | outside_x[:, None, :], 0)


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

        images (B, C, H, W), targets (B,) or (B, H, W), uniforms (B, draws) in [0, 1).
        """
        uniforms = uniforms.to(images.device)
        start = 0
        for name in self.names:
            operation, draws = OPERATIONS[name]
            images, targets = operation(images, targets, uniforms[:, start : start + draws])
            start += draws
        return images, targets
