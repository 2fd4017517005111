# SPDX-License-Identifier: Apache-2.0
"""U-Net for segmentation, in two and three dimensions, ordinary or (in two) steerable.

Ronneberger, Fischer, Brox (2015), arXiv:1505.04597; Çiçek et al. (2016), arXiv:1606.06650.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from confide.errors import ConfigError, DataError
from confide.models.design import BlockOptions, Design, PlainDesign, choose_design
from confide.models.options import check_choice, check_count, check_widths

if TYPE_CHECKING:
    from confide.equivariant import Group

Upsampling = Literal["transposed", "interpolated"]


class UNet(nn.Module):
    """U-Net on images (B, in_channels, [D,] H, W) of any size; returns label scores (B, classes, [D,] H, W).

    With a group the scores turn with the image. Halving and doubling keep the grid's centre there, on even
    and odd sides alike, so that quarter turns and mirrors are exact.

    Args:
        in_channels: Channels of the images.
        classes: Labels of a pixel, background included.
        widths: Channels (or fields) of the levels, finest first; each level halves the resolution.
        dims: 2 for images, 3 for volumes.
        upsampling: "transposed" convolution, or "interpolated" and then convolved, as all steerable ones are.
        group: A group or its name; None or "none": ordinary convolutions.
        multiplicity: How many fields a width means: "fields", "parameters" or "channels".
        frequencies: Of the hidden fields of SO(2) and O(2).
        vectors: Non-linearity of SO(2) and O(2): "gated", "gated-own" or "norm".
        pooling: "auto", "max" or "blur"; ordinary networks have max pooling.
        activation: relu, mish, elu or tanh, where the group permutes channels.
        norm_groups: Groups of the GroupNorm at most; lowered to a divisor of the channels (fields).

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
        group: Group | str | None = None,
        multiplicity: str = "fields",
        frequencies: Sequence[int] = (0, 1),
        vectors: str = "gated",
        pooling: str = "auto",
        activation: str = "relu",
        norm_groups: int = 4,
    ) -> None:
        super().__init__()
        check_count("in_channels", in_channels)
        check_count("classes", classes)
        if dims not in (2, 3):
            raise ConfigError(f"dims cannot be {dims!r}", remedy="Choose 2 for images or 3 for volumes.")
        widths = check_widths(widths, None)
        transposed = check_choice("upsampling", upsampling, get_args(Upsampling)) == "transposed"
        design: Design[Any] = choose_design(
            BlockOptions(activation, norm_groups),
            group,
            multiplicity=multiplicity,
            frequencies=tuple(frequencies),
            vectors=vectors,
            pooling=pooling,
        )
        if isinstance(design, PlainDesign):
            design = PlainDesign(design.options, dims=dims, transposed=transposed)
        elif dims == 3:
            raise ConfigError(
                "a steerable U-Net has two dimensions", remedy="Give dims: 2, or leave the group out."
            )
        self.dims = dims
        self.steerable = not isinstance(design, PlainDesign)

        def level(kind: Any, width: int) -> nn.Module:
            return nn.Sequential(design.block(kind, width), design.block(design.hidden(kind, width), width))

        kind = design.image(in_channels)
        down: list[nn.Module] = []
        pools: list[nn.Module] = []
        kinds: list[Any] = []
        for width in widths:
            down.append(level(kind, width))
            kind = design.hidden(kind, width)
            pools.append(design.pool(kind))
            kinds.append(kind)
        self.down, self.pools = nn.ModuleList(down), nn.ModuleList(pools[:-1])
        rises: list[nn.Module] = []
        up: list[nn.Module] = []
        for width, skip in list(zip(widths, kinds, strict=True))[-2::-1]:
            rises.append(design.rise(kind, width))
            kind = design.hidden(kind, width)
            up.append(level(design.joined(skip, kind), width))
        self.rise, self.up = nn.ModuleList(rises), nn.ModuleList(up)
        self.invariant, channels = design.invariant(kind)
        self.head = nn.Conv2d(channels, classes, 1) if dims == 2 else nn.Conv3d(channels, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        if min(x.shape[2:]) < 2 ** len(self.pools):
            raise DataError(
                f"an image of {'×'.join(map(str, x.shape[2:]))} cannot be halved {len(self.pools)} times",
                remedy="Take larger images or fewer levels.",
            )
        skips: list[Tensor] = []
        for i, level in enumerate(self.down):
            x = level(self.pools[i - 1](x) if i else x)
            skips.append(x)
        skips.pop()
        for rise, level in zip(self.rise, self.up, strict=True):
            skip = skips.pop()
            x = level(torch.cat([skip, self._fitted(rise(x), skip)], 1))
        return self.head(self.invariant(x))

    def _fitted(self, x: Tensor, like: Tensor) -> Tensor:
        """Make up for the pixel that halving an odd side has lost (ordinary) or gained (steerable)."""
        if x.shape[2:] == like.shape[2:]:
            return x
        if self.steerable:  # resampled, so that the centre stays
            return F.interpolate(x, like.shape[2:], mode="bilinear", align_corners=False)
        missing = [a - b for a, b in zip(like.shape[2:], x.shape[2:], strict=True)]
        return F.pad(x, [side for m in reversed(missing) for side in (0, m)], mode="replicate")
