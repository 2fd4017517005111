# SPDX-License-Identifier: Apache-2.0
"""Poolings over the grid. They halve it about its centre, so that quarter turns and mirrors stay exact."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from confide.equivariant.fields import FieldType, SteerableModule, at_least
from confide.equivariant.notes import note_once
from confide.errors import ConfigError


class FieldMaxPool2d(SteerableModule):
    """Max pooling of single channels; right where the group permutes them.

    (B, C, H, W) → (B, C, ⌈H/2⌉, ⌈W/2⌉) for size 2: an even side is read in windows of 2, an odd one in
    windows of 3 about every other pixel, because dropping its last row would break the symmetry.

    Args:
        in_type: Type of the fields, unchanged by the layer.
        size: Side and step of the windows. Sizes above 2 are exact only where they divide the image.

    Raises:
        ConfigError: If the representation turns channels into each other's sums, or the size is below 1 or,
            when called, exceeds the image.
    """

    def __init__(self, in_type: FieldType, size: int = 2) -> None:
        super().__init__(in_type, in_type)
        if in_type.rep.pointwise != "any":
            raise ConfigError(
                f"max pooling of single channels is not equivariant for {in_type.rep}",
                remedy="Use NormMaxPool2d or BlurPool2d.",
            )
        self.size = at_least("size", size, 1)

    def forward(self, x: Tensor) -> Tensor:
        self.check_input(x)
        kernel, padding = _windows(self.size, x.shape[2], x.shape[3])
        return F.max_pool2d(x, kernel, self.size, padding)


class NormMaxPool2d(SteerableModule):
    """Max pooling of vectors: each field keeps its longest value in the window.

    In float32, near-ties on flat backgrounds can fall either way (1e-3 relative); BlurPool2d has no such
    trouble.
    """

    def __init__(self, in_type: FieldType, size: int = 2) -> None:
        super().__init__(in_type, in_type)
        self.size = at_least("size", size, 1)

    def forward(self, x: Tensor) -> Tensor:
        self.check_input(x)
        kernel, padding = _windows(self.size, x.shape[2], x.shape[3])
        fields = x.unflatten(1, (self.in_type.multiplicity, -1))
        length = fields.square().sum(2)
        _, best = F.max_pool2d(length, kernel, self.size, padding, return_indices=True)
        chosen = best.flatten(2).unsqueeze(2).expand(-1, -1, self.in_type.rep.size, -1)
        return fields.flatten(3).gather(3, chosen).reshape(x.shape[0], -1, *best.shape[2:])


class BlurPool2d(SteerableModule):
    """Gaussian smoothing, then every other pixel: linear, so right for every representation; no aliasing.

    (B, C, H, W) → (B, C, ⌈H/2⌉, ⌈W/2⌉). Zhang (2019), arXiv:1904.11486.

    Args:
        in_type: Type of the fields, unchanged by the layer.
        sigma: Width of the Gaussian in pixels.
    """

    even: Tensor
    odd: Tensor

    def __init__(self, in_type: FieldType, sigma: float = 0.66) -> None:
        super().__init__(in_type, in_type)
        if not sigma > 0:
            raise ConfigError(f"sigma cannot be {sigma!r}", remedy="Give a positive width.")
        self.sigma = sigma
        for name, taps in (("even", 4), ("odd", 3)):  # between pixels, or on them
            t = torch.arange(taps) - (taps - 1) / 2
            weights = torch.exp(-t.square() / (2 * sigma**2))
            self.register_buffer(name, weights / weights.sum(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        self.check_input(x)
        rows, columns = (self.odd if side % 2 else self.even for side in x.shape[2:])
        kernel = (rows[:, None] * columns).to(x.dtype).expand(x.shape[1], 1, -1, -1)
        # A few products a pixel gain nothing by a shorter dtype, and cost a copy each way.
        with torch.autocast(x.device.type, enabled=False):
            return F.conv2d(x, kernel, stride=2, padding=1, groups=x.shape[1])


class Upsample2d(SteerableModule):
    """Bilinear interpolation to twice the side, or to a given size; right for every field."""

    def __init__(self, in_type: FieldType) -> None:
        super().__init__(in_type, in_type)

    def forward(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        self.check_input(x)
        height, width = size or (2 * x.shape[2], 2 * x.shape[3])
        return F.interpolate(x, (height, width), mode="bilinear", align_corners=False)


def _windows(size: int, height: int, width: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Kernel and padding for each axis, centred where that is possible; a note where it is not."""
    if size == 2:
        odd = (height % 2, width % 2)
        return (2 + odd[0], 2 + odd[1]), odd
    if size > min(height, width):
        raise ConfigError(
            f"windows of {size} exceed the {height}×{width} image",
            remedy="Take larger images, fewer poolings or smaller windows.",
        )
    if height % size or width % size:
        note_once(
            f"pooling {height}×{width} pixels in windows of {size} drops the last rows, so the network is "
            f"not exactly equivariant there. Sides that {size} divides, size 2, and BlurPool2d are exact."
        )
    return (size, size), (0, 0)
