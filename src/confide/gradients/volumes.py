# SPDX-License-Identifier: Apache-2.0
"""One volume at a time on a CPU: nothing of privacy, only time.

For one small float32 volume torch takes a convolution of its own, up to fourteen times as slow as the one
that it takes for two. Cut across its depth, one volume is two: each half with the border that its outputs
look at.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

# Torch's own rule (use_mkldnn in aten/src/ATen/native/Convolution.cpp): so many numbers in the first four
# dimensions of a batch of one.
_SMALL = 20_480


class Constants(Protocol):
    """Those of a convolution, a number for each spatial dimension."""

    @property
    def stride(self) -> tuple[int, ...]: ...
    @property
    def padding(self) -> tuple[int, ...]: ...
    @property
    def dilation(self) -> tuple[int, ...]: ...
    @property
    def transposed(self) -> bool: ...
    @property
    def groups(self) -> int: ...


def _reach(shape: Constants, weight: Tensor) -> int:
    """Input layers that an output layer looks at."""
    return shape.dilation[0] * (weight.shape[2] - 1) + 1


def _layers(x: Tensor, weight: Tensor, shape: Constants) -> int:
    """Output layers."""
    return (x.shape[2] + 2 * shape.padding[0] - _reach(shape, weight)) // shape.stride[0] + 1


def is_slow(x: Tensor, weight: Tensor, shape: Constants) -> bool:
    """Whether a convolution of x (1, C, D, H, W) had better be done in halves."""
    if len(x) != 1 or x.dim() != 5 or x.device.type != "cpu" or x.dtype != torch.float32:
        return False
    if shape.transposed or shape.groups != 1 or x.shape[:4].numel() > _SMALL or weight[0, 0].numel() == 1:
        return False
    layers = _layers(x, weight, shape)
    return layers >= 2 and layers % 2 == 0


class Halves:
    """The input x (1, C, D, H, W) of a convolution as two volumes, which give half of the output layers each.

    Attributes:
        inputs: (2, C, n, H, W), to be convolved without padding along the depth.
    """

    def __init__(self, x: Tensor, weight: Tensor, shape: Constants) -> None:
        self._layers = _layers(x, weight, shape) // 2
        self._start = self._layers * shape.stride[0]
        self._span = (self._layers - 1) * shape.stride[0] + _reach(shape, weight)
        self._padding, self._depth = shape.padding[0], x.shape[2]
        x = F.pad(x, (0, 0, 0, 0, self._padding, self._padding))
        self.inputs = torch.cat([x[:, :, : self._span], x[:, :, self._start : self._start + self._span]])

    @staticmethod
    def joined(out: Tensor) -> Tensor:
        """Outputs (2, O, d, H', W') of the halves as (1, O, 2d, H', W')."""
        return torch.cat([out[:1], out[1:]], 2)

    def split(self, grad: Tensor) -> Tensor:
        """Output gradients (1, O, 2d, H', W') as those of the halves."""
        return torch.cat([grad[:, :, : self._layers], grad[:, :, self._layers :]])

    def added(self, need: Tensor) -> Tensor:
        """Input gradients of the halves as that of x; layers that both look at get the sum."""
        depth = self._depth + 2 * self._padding
        whole = need.new_zeros(1, need.shape[1], depth, *need.shape[3:])
        whole[:, :, : self._span] += need[:1]
        whole[:, :, self._start : self._start + self._span] += need[1:]
        return whole[:, :, self._padding : self._padding + self._depth].contiguous()
