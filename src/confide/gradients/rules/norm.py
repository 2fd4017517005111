# SPDX-License-Identifier: Apache-2.0
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
"""Normalisation layers that stay within a sample, and the refusal of those that do not."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from confide.errors import UnsupportedLayerError
from confide.gradients.captures import Instantiated
from confide.gradients.precision import lengthened
from confide.gradients.recorder import Recorder, Unsupported, always, unseen
from confide.gradients.rules import operation
from confide.gradients.rules.elementwise import per_sample

_native = torch.ops.aten.native_group_norm
_native_backward = torch.ops.aten.native_group_norm_backward


class GroupNorm(torch.autograd.Function):
    """Group normalisation whose backward pass gives per-sample gradients of weight and bias at no extra pass.

    The operation's own backward kernel is called with the batch folded into the channels: (B, C) -> (1,
    B·C), groups B·G. What it then calls the gradients of weight and bias are those of each sample.
    """

    @staticmethod
    def forward(
        ctx: Any,
        recorder: Recorder,
        anchor: Tensor,
        x: Tensor,
        groups: int,
        targets: tuple[Tensor, Tensor],
        eps: float,
    ) -> Tensor:
        weight, bias = targets
        x = x.contiguous()
        rows, channels = x.shape[:2]
        scale, shift = weight.to(x.dtype), bias.to(x.dtype)
        y, mean, rstd = _native(x, scale, shift, rows, channels, x.shape[2:].numel(), groups, eps)
        ctx.recorder, ctx.weight, ctx.bias, ctx.groups = recorder, weight, bias, groups
        ctx.save_for_backward(x, mean, rstd)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, mean, rstd = ctx.saved_tensors
        with unseen():
            recorder: Recorder = ctx.recorder
            rows, channels = x.shape[:2]
            # Laid out in full: the kernel reads its memory without asking for strides.
            scale = x.new_empty(rows, channels).copy_(ctx.weight.detach()).view(-1)
            flat = (1, rows * channels, x.shape[2:].numel(), rows * ctx.groups)
            need, by_weight, by_bias = _native_backward(
                # Flat: a tensor of one channel would be taken for channels last, and read across samples.
                grads[0].to(x.dtype).reshape(1, rows * channels, -1),
                x.reshape(1, rows * channels, -1),
                mean,
                rstd,
                scale,
                *flat,
                (True, True, True),
            )
            for target, found in ((ctx.weight, by_weight), (ctx.bias, by_bias)):
                if recorder.wants(target):
                    recorder.record(target, Instantiated(recorder.units.sum_rows(found.view(rows, channels))))
            need = need.view(x.shape)
        return None, None, need, None, None, None


_signature = functools.cache(inspect.signature)  # 0.1 ms a call otherwise


def _bind(func: Callable[..., Any], args: Any, kwargs: Any) -> dict[str, Any]:
    bound = _signature(func).bind(*args, **kwargs)
    bound.apply_defaults()
    return bound.arguments


def _group_norm_arguments(
    input: Tensor, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> tuple[Tensor, int, Any, Any, float]:
    """The signature of `F.group_norm`; quicker than binding it."""
    return input, num_groups, weight, bias, eps


@operation(F.group_norm)
def group_norm(recorder: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    """`F.group_norm`."""
    x, num_groups, weight, bias, eps = _group_norm_arguments(*args, **kwargs)
    if x.shape[0] != recorder.batch:
        raise Unsupported("group norm on a tensor that does not start with the batch")
    whole = isinstance(weight, Tensor) and isinstance(bias, Tensor)
    if (
        not whole
        or recorder.is_rows(weight)
        or x.dim() < 3
        or x.shape[2:].numel() == 0
        or (x.is_cuda and x.dtype != torch.float32)
    ):
        return _affine(recorder, F.group_norm(x, num_groups, None, None, eps), weight, bias, 1)
    if torch.is_autocast_enabled(x.device.type):
        x = lengthened(x)  # as autocast does; float64 stays
    return GroupNorm.apply(recorder, recorder.anchor, x, num_groups, (weight, bias), eps)


def _affine(recorder: Recorder, y: Tensor, weight: Any, bias: Any, axis: int) -> Tensor:
    """Normalised values times weight plus bias, each seen once for each sample.

    axis: where the parameters' first dimension stands in y; the rest of y's dimensions follow theirs, or
    broadcast.
    """

    def shaped(parameter: Tensor) -> Tensor:
        view = parameter.reshape(*[1] * axis, *parameter.shape, *[1] * (y.dim() - axis - parameter.dim()))
        if not recorder.is_derived(parameter):
            return view
        return per_sample(recorder, view, y.dim(), len(y), parameter)

    if weight is not None:
        y = y * shaped(weight)
    return y if bias is None else y + shaped(bias)


@operation(F.layer_norm)
def layer_norm(recorder: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    """`F.layer_norm` over the last dimensions."""
    given = _bind(F.layer_norm, args, kwargs)
    x, shape = given["input"], given["normalized_shape"]
    axis = x.dim() - len(shape)
    if axis == 0:
        raise Unsupported("layer norm over the whole batch")
    y = F.layer_norm(x, shape, None, None, given["eps"])
    return _affine(recorder, y, given["weight"], given["bias"], axis)


@operation(F.rms_norm)
def rms_norm(recorder: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    """`F.rms_norm` over the last dimensions."""
    given = _bind(F.rms_norm, args, kwargs)
    x, shape = given["input"], given["normalized_shape"]
    y = F.rms_norm(x, shape, None, given["eps"])
    return _affine(recorder, y, given["weight"], None, x.dim() - len(shape))


@operation(F.instance_norm)
@always
def instance_norm(recorder: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    """`F.instance_norm`; running statistics of a batch are refused."""
    given = _bind(F.instance_norm, args, kwargs)
    if given["running_mean"] is not None and given["use_input_stats"]:
        raise UnsupportedLayerError(
            "an instance norm keeps running statistics",
            why="They are averages over the samples of a batch and would leave the model un-noised.",
            remedy="confide.repair(model) switches them off.",
        )
    x, weight, bias = given["input"], given["weight"], given["bias"]
    if not recorder.is_rows(x):
        return func(*args, **kwargs)
    given |= {"weight": None, "bias": None}
    y = F.instance_norm(**given)
    recorder.mark_rows(y)
    return _affine(recorder, y, weight, bias, 1)


@operation(F.batch_norm)
@always
def batch_norm(recorder: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    """`F.batch_norm`: refused with the batch's own statistics, a fixed affine map with stored ones."""
    given = _bind(F.batch_norm, args, kwargs)
    if given["training"] or given["running_mean"] is None:
        raise UnsupportedLayerError(
            "a batch norm mixes the samples of a batch, so no per-sample gradient exists",
            remedy="confide.repair(model) replaces it by GroupNorm; or call .eval() on it to freeze its "
            "statistics.",
        )
    x, weight, bias = given["input"], given["weight"], given["bias"]
    if not recorder.is_rows(x):
        return func(*args, **kwargs)
    given |= {"weight": None, "bias": None}
    return _affine(recorder, F.batch_norm(**given), weight, bias, 1)
