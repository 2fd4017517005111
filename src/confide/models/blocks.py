# SPDX-License-Identifier: Apache-2.0
"""Parts that the architectures share: normalisation that keeps samples apart, activations, blocks.

Nothing here mixes the samples of a batch, works in place, or changes with `train()`: a per-sample gradient
exists for every layer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import torch.nn.functional as F
from torch import Tensor, nn

from confide.models.options import Activation, check_choice

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "mish": nn.Mish,
    "elu": nn.ELU,
    "tanh": nn.Tanh,
}


def activation(name: str) -> nn.Module:
    """The activation of that name.

    Raises:
        ConfigError: If there is none.
    """
    return _ACTIVATIONS[check_choice("activation", name, get_args(Activation))]()


def dividing(channels: int, groups: int) -> int:
    """The largest number of groups, at most `groups`, that divides the channels (or fields)."""
    return next(g for g in range(min(groups, channels), 0, -1) if channels % g == 0)


def group_norm(channels: int, groups: int) -> nn.GroupNorm:
    """GroupNorm with at most `groups` groups; its statistics are of one sample only."""
    return nn.GroupNorm(dividing(channels, groups), channels)


class ConvBlock(nn.Sequential):
    """Convolution → activation → GroupNorm → pooling.

    Normalising *after* the activation buys about six points under DP (Bao & Bindschaedler 2024, replicating
    Klause et al. 2022); `norm_first` gives the ordinary order.
    """

    def __init__(
        self,
        conv: nn.Module,
        norm: nn.Module,
        act: str,
        *,
        norm_first: bool = False,
        pool: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.add_module("conv", conv)
        if norm_first:
            self.add_module("norm", norm)
        self.add_module("act", activation(act))
        if not norm_first:
            self.add_module("norm", norm)
        if pool is not None:
            self.add_module("pool", pool)


class Residual(nn.Module):
    """shortcut(x) + body(x), then, with ScaleNorm, a normalisation of the sum (Klause et al. 2022)."""

    def __init__(
        self, body: nn.Module, *, shortcut: nn.Module | None = None, scale_norm: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.body = body
        self.shortcut = shortcut
        self.scale_norm = scale_norm

    def forward(self, x: Tensor) -> Tensor:
        y = (x if self.shortcut is None else self.shortcut(x)) + self.body(x)
        return y if self.scale_norm is None else self.scale_norm(y)


class GlobalMaxPool(nn.Module):
    """The largest value of each channel: (B, C, H, W) → (B, C), whatever the image's size or orientation."""

    def forward(self, x: Tensor) -> Tensor:
        return x.amax((2, 3))


class Rise(nn.Module):
    """A doubling of the resolution, by a transposed convolution or by interpolation and a convolution."""

    def __init__(self, channels: int, width: int, *, dims: int, transposed: bool) -> None:
        super().__init__()
        self.mode = {2: "bilinear", 3: "trilinear"}[dims]
        self.transposed = transposed
        if transposed:
            self.conv = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}[dims](channels, width, 2, stride=2)
        else:
            self.conv = {2: nn.Conv2d, 3: nn.Conv3d}[dims](channels, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x if self.transposed else F.interpolate(x, scale_factor=2, mode=self.mode))
