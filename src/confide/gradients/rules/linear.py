# SPDX-License-Identifier: Apache-2.0
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
"""Matrix products with a weight: `F.linear` with any leading dimensions, and `x @ W`."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from confide.gradients.captures import SMALL, Ghost, Instantiated
from confide.gradients.grams import summed
from confide.gradients.precision import matched
from confide.gradients.recorder import Recorder, Unsupported, unseen
from confide.gradients.rules import operation


def linear_gradients(x: Tensor, g: Tensor) -> Tensor:
    """Each sample's weight gradient: x (B, T, I), g (B, T, O) -> (B, O, I)."""
    return torch.bmm(g.transpose(1, 2), x)


def linear_norms(x: Tensor, g: Tensor) -> Tensor:
    """Squared norm of each sample's weight gradient, without forming it; rounded up, see `summed`.

    x: (B, T, I) inputs; g: (B, T, O) output gradients; returns (B,) float64.
    Costs B·T²·(I+O) instead of B·T·I·O. Li et al. (2022), arXiv:2110.05679.
    """
    if x.shape[1] == 1:
        return x[:, 0].double().square().sum(1) * g[:, 0].double().square().sum(1)
    products = torch.bmm(x, x.transpose(1, 2)).double() * torch.bmm(g, g.transpose(1, 2)).double()
    return summed(products, x.dtype)


def linear_total(x: Tensor, g: Tensor) -> Tensor:
    """Σ over samples: (O, I)."""
    return g.flatten(0, 1).t() @ x.flatten(0, 1)


class Linear(torch.autograd.Function):
    """`F.linear` whose backward pass forms the input gradient only."""

    @staticmethod
    def forward(
        ctx: Any, recorder: Recorder, anchor: Tensor, x: Tensor, targets: tuple[Tensor, Tensor | None]
    ) -> Tensor:
        weight, bias = targets
        ctx.recorder, ctx.weight, ctx.bias = recorder, weight, bias
        ctx.save_for_backward(x)
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        with unseen():
            recorder: Recorder = ctx.recorder
            weight, bias = ctx.weight, ctx.bias
            grad = grads[0]
            need = grad @ weight.detach().to(grad.dtype) if ctx.needs_input_grad[2] else None
            if recorder.wants(weight) or recorder.wants(bias):
                rows = (
                    recorder.rows_of(x, "linear").flatten(1, -2)
                    if x.dim() > 2 or len(x) != recorder.batch
                    else x[:, None]
                )
                outs = (
                    recorder.rows_of(grad, "linear").flatten(1, -2)
                    if x.dim() > 2 or len(x) != recorder.batch
                    else grad[:, None]
                )
                _record(recorder, *matched(rows.detach(), outs), weight, bias)
        return None, None, need, None


def _record(recorder: Recorder, x: Tensor, g: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    units = recorder.units
    if recorder.wants(bias):
        assert bias is not None
        recorder.record(bias, Instantiated(units.sum_rows(g.sum(1))))
    if not recorder.wants(weight):
        return
    steps, wide, tall = x.shape[1], x.shape[2], g.shape[2]
    # Both are exact; the Gram matrices win while T²(I+O) stays below the T·I·O of forming the gradients.
    # Small gradients are formed all the same: they share a few calls for the norms of all (`SideBySide`).
    if units.distinct and SMALL < wide * tall > steps * (wide + tall):
        recorder.record(weight, Ghost(x, g, linear_norms, linear_gradients, linear_total))
    else:
        recorder.record(weight, Instantiated(units.sum_rows(linear_gradients(x, g))))


@operation(F.linear)
def linear(recorder: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    """`F.linear(x, weight, bias)`."""

    def bound(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if not recorder.is_rows(x) or recorder.is_rows(weight) or x.dim() < 2:
            raise Unsupported("linear with a weight that depends on the batch")
        if recorder.is_rows(bias):
            return Linear.apply(recorder, recorder.anchor, x, (weight, None)) + bias
        recorder.rows_of(x, "linear")
        return Linear.apply(recorder, recorder.anchor, x, (weight, bias))

    if "input" in kwargs:
        kwargs = {("x" if key == "input" else key): value for key, value in kwargs.items()}
    return bound(*args, **kwargs)


@operation(torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.mm, Tensor.mm)
def matmul(recorder: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    """`x @ W` with a two-dimensional derived W."""
    x, weight = args if len(args) == 2 else (None, None)
    if x is None or weight is None or not recorder.is_derived(weight) or weight.dim() != 2 or x.dim() < 2:
        raise Unsupported("a matrix product of a parameter and the batch other than x @ W")
    turned = weight.t()
    recorder.mark_derived(turned)
    recorder.rows_of(x, "matmul")
    return Linear.apply(recorder, recorder.anchor, x, (turned, None))
