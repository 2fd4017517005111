# SPDX-License-Identifier: Apache-2.0
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
"""Max pooling of images on a CPU: nothing of privacy, only time. In a small ResNet-9 it is a third of the
forward pass."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from confide.gradients.recorder import Recorder, always, unseen
from confide.gradients.rules import operation

_pool = torch.ops.aten.max_pool2d_with_indices
_pool_backward = torch.ops.aten.max_pool2d_with_indices_backward
_LEAST = 8  # channels that fill a vector register


class MaxPool2d(torch.autograd.Function):
    """Max pooling, forward in channels-last layout and backward in the ordinary one: each is several times as
    slow in the other. Values, and which of equal values gets the gradient, are the same."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, window: tuple[Any, ...], ceil: bool) -> Tensor:
        y, places = _pool(x.contiguous(memory_format=torch.channels_last), *window, ceil)
        ctx.window, ctx.ceil = window, ceil
        ctx.save_for_backward(x, places.contiguous())
        return y.contiguous()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, places = ctx.saved_tensors
        with unseen():
            return _pool_backward(grads[0].contiguous(), x, *ctx.window, ctx.ceil, places), None, None


def _arguments(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> tuple[Tensor, tuple[Any, ...], bool, bool]:
    """The signature of `F.max_pool2d`, and the window as torch's operation wants it."""

    def pair(value: Any) -> list[int]:
        return [value, value] if isinstance(value, int) else list(value)

    size = pair(kernel_size)
    window = (size, size if stride is None else pair(stride), pair(padding), pair(dilation))
    return input, window, ceil_mode, return_indices


@operation(F.max_pool2d, torch.max_pool2d)
@always
def max_pool2d(recorder: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    """`F.max_pool2d`."""
    x, window, ceil, indices = _arguments(*args, **kwargs)
    slow = x.device.type == "cpu" and x.dim() == 4 and x.dtype == torch.float32 and x.is_contiguous()
    if indices or not slow or x.shape[1] < _LEAST or not x.requires_grad:
        return func(*args, **kwargs)
    return MaxPool2d.apply(x, window, ceil)
