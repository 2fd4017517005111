# SPDX-License-Identifier: Apache-2.0
"""U-Net for segmentation, in two and three dimensions.

Ronneberger, Fischer, Brox (2015), arXiv:1505.04597; Çiçek et al. (2016), arXiv:1606.06650.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from confide.errors import ConfigError
from confide.models.blocks import activation as make_activation
from confide.models.blocks import group_norm
from confide.models.options import check_choice, check_count, check_widths

Upsampling = Literal["transposed", "interpolated"]
_CONV = {2: nn.Conv2d, 3: nn.Conv3d}
_TRANSPOSED = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_POOL = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
_INTERPOLATION = {2: "bilinear", 3: "trilinear"}


class UNet(nn.Module):
    """U-Net on images (B, in_channels, [D,] H, W) of any size; returns label scores (B, classes, [D,] H, W).

    Args:
        in_channels: Channels of the images.
        classes: Labels of a pixel, background included.
        widths: Channels of the levels, finest first; each level halves the resolution.
        dims: 2 for images, 3 for volumes.
        upsampling: "transposed" convolution, or "interpolated" and then convolved.
        activation: relu, mish, elu or tanh.
        norm_groups: Groups of the GroupNorm at most; lowered to a divisor of the channels.

    Raises:
        ConfigError: If an argument has no meaning.
    """

    def __init__(
        self,
        in_channels: int,
        classes: int,
        widths: Sequence[int] = (16, 32, 64, 128),
        *,
        dims: int = 2,
        upsampling: Upsampling = "transposed",
        activation: str = "relu",
        norm_groups: int = 4,
    ) -> None:
        super().__init__()
        check_count("in_channels", in_channels)
        check_count("classes", classes)
        check_count("norm_groups", norm_groups)
        if dims not in _CONV:
            raise ConfigError(f"dims cannot be {dims!r}", remedy="Choose 2 for images or 3 for volumes.")
        widths = check_widths(widths, None)
        transposed = check_choice("upsampling", upsampling, get_args(Upsampling)) == "transposed"
        self.dims = dims

        def level(channels: int, width: int) -> nn.Sequential:
            layers: list[nn.Module] = []
            for source in (channels, width):
                conv = _CONV[dims](source, width, 3, padding=1)
                layers += [conv, make_activation(activation), group_norm(width, norm_groups)]
            return nn.Sequential(*layers)

        def rise(channels: int, width: int) -> nn.Module:
            if transposed:
                return _TRANSPOSED[dims](channels, width, 2, stride=2)
            return nn.Sequential(
                nn.Upsample(scale_factor=2, mode=_INTERPOLATION[dims]),
                _CONV[dims](channels, width, 3, padding=1),
            )

        sources = (in_channels, *widths)
        self.down = nn.ModuleList([level(i, o) for i, o in zip(sources, widths, strict=False)])
        self.pool = _POOL[dims](2)
        pairs = list(pairwise(widths))[::-1]
        self.rise = nn.ModuleList([rise(coarse, fine) for fine, coarse in pairs])
        self.up = nn.ModuleList([level(2 * fine, fine) for fine, _ in pairs])
        self.head = _CONV[dims](widths[0], classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips: list[Tensor] = []
        for i, level in enumerate(self.down):
            x = level(self.pool(x) if i else x)
            skips.append(x)
        skips.pop()
        for rise, level in zip(self.rise, self.up, strict=True):
            skip = skips.pop()
            x = level(torch.cat([skip, _fit(rise(x), skip)], 1))
        return self.head(x)


def _fit(x: Tensor, like: Tensor) -> Tensor:
    """Repeat the far edges of x by the pixel that halving an odd side has lost."""
    missing = [a - b for a, b in zip(like.shape[2:], x.shape[2:], strict=True)]
    if not any(missing):
        return x
    return F.pad(x, [side for m in reversed(missing) for side in (0, m)], mode="replicate")
