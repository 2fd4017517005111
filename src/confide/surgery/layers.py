# SPDX-License-Identifier: Apache-2.0
"""Layers that stand in for batch normalisation and that torch does not have."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter


def fitting_groups(channels: int, most: int | None = 32, least_channels: int = 2) -> int:
    """The largest group count that divides the channels, within limits; 1 always fits.

    Args:
        channels: Number of channels.
        most: No more groups than that; None: no limit.
        least_channels: No fewer channels in a group than that.

    >>> fitting_groups(48), fitting_groups(64), fitting_groups(47), fitting_groups(4, least_channels=8)
    (24, 32, 1, 1)
    """
    limit = min(most or channels, channels // least_channels)
    return next((groups for groups in range(limit, 0, -1) if channels % groups == 0), 1)


class ChannelScale(nn.Module):
    """y[b, c, ...] = weight[c]·x[b, c, ...] + bias[c].

    Args:
        channels: Number of channels C of inputs (B, C, ...).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, C, ...); the same shape returns."""
        shape = (1, -1) + (1,) * (x.ndim - 2)
        return x * self.weight.view(shape) + self.bias.view(shape)

    def extra_repr(self) -> str:
        """Number of channels."""
        return str(len(self.weight))


class LazyGroupNorm(LazyModuleMixin, nn.GroupNorm):
    """GroupNorm that learns the number of channels from its first input, and then is a plain GroupNorm.

    Args:
        groups: Number of groups, or None: `fitting_groups` decides.
        least_channels: No fewer channels in a group than that.
        eps: Added to the variance.
        affine: Whether it has a weight and a bias.
        most: No more groups than that; None: no limit.
    """

    cls_to_become = nn.GroupNorm  # pyright: ignore[reportAssignmentType]

    def __init__(
        self, groups: int | None, least_channels: int, eps: float, *, affine: bool, most: int | None = 32
    ) -> None:
        super().__init__(1, 0, eps, affine=False)  # pyright: ignore[reportAttributeAccessIssue]
        self.affine = affine
        self.wanted = (groups, least_channels, most)

    def initialize_parameters(self, input: Tensor) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Choose groups and give weight and bias their shapes. input: (B, C, ...)."""
        groups, least, most = self.wanted
        self.num_channels = input.shape[1]
        self.num_groups = groups or fitting_groups(self.num_channels, most, least)
        _materialise(self, self.num_channels)


class LazyChannelScale(LazyModuleMixin, ChannelScale):
    """ChannelScale that learns the number of channels from its first input.

    Args:
        affine: Whether weight and bias are trainable.
    """

    cls_to_become = ChannelScale  # pyright: ignore[reportAssignmentType]

    def __init__(self, *, affine: bool) -> None:
        super().__init__(0)  # pyright: ignore[reportAttributeAccessIssue]
        if not affine:
            self.weight = UninitializedParameter(requires_grad=False)
            self.bias = UninitializedParameter(requires_grad=False)

    def initialize_parameters(self, input: Tensor) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Give weight and bias their shapes. input: (B, C, ...)."""
        _materialise(self, input.shape[1])


def _materialise(layer: Any, channels: int) -> None:
    for name, value in (("weight", 1.0), ("bias", 0.0)):
        parameter = layer._parameters[name]
        if isinstance(parameter, UninitializedParameter):
            parameter.materialize((channels,))
            with torch.no_grad():
                parameter.fill_(value)


def _empty_buffer(like: Any) -> Any:
    blank: Any = UninitializedBuffer
    return blank(device=like.device, dtype=like.dtype)


def deep_copy(model: nn.Module) -> nn.Module:
    """A copy that shares nothing with the model.

    As `copy.deepcopy`, which alone fails on buffers without a shape, such as those of LazyBatchNorm2d.
    """
    memo: dict[int, Any] = {}
    for buffer in model.buffers():
        if isinstance(buffer, UninitializedBuffer):
            memo[id(buffer)] = _empty_buffer(buffer)
    return copy.deepcopy(model, memo)
