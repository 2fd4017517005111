# SPDX-License-Identifier: Apache-2.0
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
"""Convolutions and transposed convolutions in one, two and three dimensions."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from confide.gradients.captures import Ghost, Instantiated
from confide.gradients.grams import conv_norms, conv_total
from confide.gradients.kernels import ConvShape, weight_gradient
from confide.gradients.precision import as_autocast_would, as_kept, lengthened, matched
from confide.gradients.recorder import Recorder, Unsupported, unseen
from confide.gradients.rules import operation
from confide.gradients.tuning import choose_kernel
from confide.gradients.volumes import is_slow


class Convolution(torch.autograd.Function):
    """A convolution whose backward pass forms the input gradient only."""

    @staticmethod
    def forward(
        ctx: Any,
        recorder: Recorder,
        anchor: Tensor,
        x: Tensor,
        targets: tuple[Tensor, Tensor | None],
        shape: ConvShape,
    ) -> Tensor:
        weight, bias = targets
        ctx.recorder, ctx.weight, ctx.bias, ctx.shape = recorder, weight, bias, shape
        x, weight, bias = as_autocast_would(x, weight, bias)
        ctx.save_for_backward(x)
        return shape.forward(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (x,) = ctx.saved_tensors  # outside: a checkpoint runs forward again here, which must be seen
        with unseen():
            recorder: Recorder = ctx.recorder
            shape: ConvShape = ctx.shape
            weight: Tensor = ctx.weight
            x, grad = as_kept(x.detach(), grads[0])
            like = weight.detach().to(x.dtype)
            need = None
            if ctx.needs_input_grad[2]:
                need = shape.backward(grad, x, like, (True, False))[0]
            _record(recorder, x, grad, (weight, ctx.bias), like, shape)
        return None, None, need, None, None


def _record(
    recorder: Recorder,
    x: Tensor,
    grad: Tensor,
    targets: tuple[Tensor, Tensor | None],
    like: Tensor,
    shape: ConvShape,
) -> None:
    """like: the weight in the dtype of x and grad."""
    weight, bias = targets
    units = recorder.units
    merged = x.shape[0] != recorder.batch
    if merged:
        # Windows of one sample stand behind each other: each is convolved by itself, their gradients add up.
        recorder.rows_of(x, "convolution")
        units = units.repeated(len(x) // recorder.batch)
    if recorder.wants(bias):
        assert bias is not None
        recorder.record(bias, Instantiated(units.sum_rows(lengthened(grad.flatten(2)).sum(2))))
    if not recorder.wants(weight):
        return
    kernel = choose_kernel(x, grad, like, shape, ghost_allowed=units.distinct, mode=recorder.kernels)
    if kernel == "ghost":
        recorder.record(
            weight,
            Ghost(
                *matched(x, grad),
                lambda a, b: conv_norms(a, b, shape, tuple(weight.shape[2:])),
                lambda a, b: weight_gradient("unfold", a, b, weight, shape, units),
                lambda a, b: conv_total(a, b, weight, shape),
            ),
        )
    else:
        values = weight_gradient(kernel, x, grad, like, shape, units)
        recorder.record(weight, Instantiated(values.contiguous()))


_CONVOLUTIONS: dict[Any, tuple[int, bool]] = {
    F.conv1d: (1, False),
    F.conv2d: (2, False),
    F.conv3d: (3, False),
    F.conv_transpose1d: (1, True),
    F.conv_transpose2d: (2, True),
    F.conv_transpose3d: (3, True),
}


def _plain(
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    """The signature of `F.conv2d`, which is a builtin without one."""
    return input, weight, bias, stride, padding, dilation, groups, 0


def _transposed(
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Any:
    """The signature of `F.conv_transpose2d`."""
    return input, weight, bias, stride, padding, dilation, groups, output_padding


@operation(*_CONVOLUTIONS)
def convolution(recorder: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    """`F.conv*d` and `F.conv_transpose*d`."""
    dims, transposed = _CONVOLUTIONS[func]
    signature: Callable[..., Any] = _transposed if transposed else _plain
    x, weight, bias, stride, padding, dilation, groups, extra = signature(*args, **kwargs)
    if not recorder.is_rows(x) or recorder.is_rows(weight) or x.dim() != dims + 2:
        raise Unsupported(
            "a convolution with a weight that depends on the batch, or without a batch", (id(weight),)
        )
    recorder.rows_of(x, "convolution")
    if isinstance(padding, str):
        x, padding = _same(x, weight, padding, dilation, dims)
    given = (tuple(v) if isinstance(v, list) else v for v in (stride, padding, dilation, extra))
    shape = _shape(dims, *given, transposed, groups)
    late = bias if recorder.is_rows(bias) else None
    out = Convolution.apply(recorder, recorder.anchor, x, (weight, None if late is not None else bias), shape)
    return out if late is None else out + late.reshape(1, -1, *[1] * dims)


class InHalves(TorchFunctionMode):
    """Within, `F.conv3d` of one small volume is that of its two halves, as in the rule above: for fallbacks
    and checks, which run a model one sample at a time."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.conv3d:
            x, weight, bias, stride, padding, dilation, groups, extra = _plain(*args, **kwargs)
            if not isinstance(padding, str):
                given = (tuple(v) if isinstance(v, list) else v for v in (stride, padding, dilation, extra))
                shape = _shape(3, *given, False, groups)
                if is_slow(x, weight, shape):
                    return shape.forward(x, weight, bias)
        return func(*args, **kwargs)


@functools.lru_cache(1024)
def _shape(
    dims: int, stride: Any, padding: Any, dilation: Any, extra: Any, transposed: bool, groups: int
) -> ConvShape:
    """From numbers or tuples of them; made once, for every step asks for the same few."""
    stride, padding, dilation, extra = (_tuple(value, dims) for value in (stride, padding, dilation, extra))
    return ConvShape(stride, padding, dilation, extra, transposed, groups)


def _tuple(value: Any, dims: int) -> tuple[int, ...]:
    values = tuple(value) if isinstance(value, tuple | list) else (value,)
    return tuple(int(v) for v in (values * dims if len(values) == 1 else values))


def _same(
    x: Tensor, weight: Tensor, padding: str, dilation: Any, dims: int
) -> tuple[Tensor, int | tuple[int, ...]]:
    """String padding as numbers; an uneven rest is padded at the end, as torch does."""
    if padding == "valid":
        return x, 0
    totals = [d * (k - 1) for d, k in zip(_tuple(dilation, dims), weight.shape[2:], strict=True)]
    if all(total % 2 == 0 for total in totals):
        return x, tuple(total // 2 for total in totals)
    ends = [side for total in reversed(totals) for side in (total // 2, total - total // 2)]
    return F.pad(x, ends), 0
