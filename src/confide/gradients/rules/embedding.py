# SPDX-License-Identifier: Apache-2.0
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
"""Table look-ups: `F.embedding`, and PReLU's slope."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from confide.gradients.captures import Instantiated
from confide.gradients.recorder import Recorder, Unsupported, unseen
from confide.gradients.rules import operation
from confide.gradients.rules.elementwise import per_sample


class Embedding(torch.autograd.Function):
    """`F.embedding` that records the rows of the table each sample used."""

    @staticmethod
    def forward(
        ctx: Any,
        recorder: Recorder,
        anchor: Tensor,
        index: Tensor,
        targets: tuple[Tensor],
        padding: int | None,
    ) -> Tensor:
        (weight,) = targets
        ctx.recorder, ctx.weight, ctx.padding = recorder, weight, padding
        ctx.save_for_backward(index)
        return F.embedding(index, weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (index,) = ctx.saved_tensors
        with unseen():
            recorder: Recorder = ctx.recorder
            weight = ctx.weight
            places = recorder.rows_of(index, "embedding").flatten(1)
            values = grads[0].reshape(len(places), -1, weight.shape[1])
            if ctx.padding is not None:
                values = values * (places != ctx.padding)[..., None]
            units = recorder.units
            out = values.new_zeros((units.count, *weight.shape))
            owner = units.index[:, None].expand_as(places)
            out.index_put_((owner, places), values, accumulate=True)
            recorder.record(weight, Instantiated(out))
        return None, None, None, None, None


@operation(F.embedding)
def embedding(recorder: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    """`F.embedding(index, table)` without renormalisation."""

    def bound(
        input: Tensor,
        weight: Tensor,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
    ) -> Tensor:
        if max_norm is not None or scale_grad_by_freq:
            raise Unsupported("an embedding that renormalises its table or scales by frequency in the batch")
        padding = None if padding_idx is None else padding_idx % len(weight)
        return Embedding.apply(recorder, recorder.anchor, input, (weight,), padding)

    return bound(*args, **kwargs)


@operation(F.prelu, torch.prelu, Tensor.prelu)
def prelu(recorder: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    """max(0, x) + slope·min(0, x), the slope seen once for each sample; at zero it is the derivative."""

    def bound(input: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        return input, weight

    x, slope = bound(*args, **kwargs)
    shaped = slope.reshape(1, -1, *[1] * (x.dim() - 2)) if slope.numel() > 1 else slope.reshape([1] * x.dim())
    return torch.where(x > 0, x, x * per_sample(recorder, shaped, x.dim(), len(x), slope))
