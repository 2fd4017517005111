# SPDX-License-Identifier: Apache-2.0
"""Parts that the architectures share: normalisation that keeps samples apart, activations, blocks.

Nothing here mixes the samples of a batch, works in place, or changes with `train()`: a per-sample gradient
exists for every layer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

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
    """Convolution → activation → GroupNorm → pooling, (B, C, H, W) → (B, width, H', W').

    Normalising *after* the activation buys about six points under DP (Bao & Bindschaedler 2024, replicating
    Klause et al. 2022); `norm_first` gives the ordinary order.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        *,
        act: str = "relu",
        norm_groups: int = 4,
        norm_first: bool = False,
        pool: bool = False,
        kernel_size: int = 3,
    ) -> None:
        super().__init__()
        self.add_module("conv", nn.Conv2d(channels, width, kernel_size, padding=kernel_size // 2))
        if norm_first:
            self.add_module("norm", group_norm(width, norm_groups))
        self.add_module("act", activation(act))
        if not norm_first:
            self.add_module("norm", group_norm(width, norm_groups))
        if pool:
            self.add_module("pool", nn.MaxPool2d(2))


class Residual(nn.Module):
    """x + body(x), then, with ScaleNorm, a normalisation of the sum (Klause et al. 2022)."""

    def __init__(self, body: nn.Module, scale_norm: nn.Module | None = None) -> None:
        super().__init__()
        self.body = body
        self.scale_norm = scale_norm

    def forward(self, x: Tensor) -> Tensor:
        y = x + self.body(x)
        return y if self.scale_norm is None else self.scale_norm(y)


class GlobalMaxPool(nn.Module):
    """The largest value of each channel: (B, C, H, W) → (B, C), whatever the image's size or orientation."""

    def forward(self, x: Tensor) -> Tensor:
        return x.amax((2, 3))
