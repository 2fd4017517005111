# SPDX-License-Identifier: Apache-2.0
"""Per-unit gradients of the group norm of permuted fields, registered with the gradient engine.

The operation's own backward kernel is called with the batch folded into the channels, so that what it calls
the gradients of scale and shift are those of each sample; scales and shifts of a field's channels are then
summed to the field's. Fields of other representations are seen operation by operation.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from confide.equivariant.normalization import FieldGroupNorm
from confide.gradients.captures import Instantiated
from confide.gradients.precision import lengthened
from confide.gradients.recorder import Recorder, unseen
from confide.gradients.rules import forward_rule

_native = torch.ops.aten.native_group_norm
_native_backward = torch.ops.aten.native_group_norm_backward


class FieldNormalization(torch.autograd.Function):
    """The layer, with a backward pass that gives the input gradient and records the parameters'."""

    @staticmethod
    def forward(ctx: Any, recorder: Recorder, anchor: Tensor, x: Tensor, layer: FieldGroupNorm) -> Tensor:
        x = x.contiguous()
        weight, bias = (None if t is None else t.to(x.dtype) for t in layer.channel_affine())
        rows, channels = x.shape[:2]
        pixels = x.shape[2:].numel()
        y, mean, rstd = _native(x, weight, bias, rows, channels, pixels, layer.groups, layer.eps)
        ctx.recorder, ctx.layer = recorder, layer
        ctx.save_for_backward(x, mean, rstd, weight)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, mean, rstd, weight = ctx.saved_tensors
        with unseen():
            recorder: Recorder = ctx.recorder
            layer: FieldGroupNorm = ctx.layer
            rows, channels = x.shape[:2]
            flat = (1, rows * channels, x.shape[2:].numel(), rows * layer.groups)
            need, by_scale, by_shift = _native_backward(
                # Flat: a tensor of one channel would be taken for channels last, and read across samples.
                grads[0].to(x.dtype).reshape(1, rows * channels, -1),
                x.view(1, rows * channels, -1),
                mean,
                rstd,
                x.new_empty(rows, channels).copy_(weight).view(-1),
                *flat,
                (True, True, True),
            )
            fields = (rows, layer.in_type.multiplicity, layer.in_type.rep.size)
            if layer.weight is not None and recorder.wants(layer.weight):
                values = by_scale.view(fields).sum(2)
                recorder.record(layer.weight, Instantiated(recorder.units.sum_rows(values)))
            if layer.bias is not None and recorder.wants(layer.bias):
                values = by_shift.view(fields) @ layer.inv.to(x.dtype).t()
                recorder.record(layer.bias, Instantiated(recorder.units.sum_rows(values)))
        return None, None, need.view_as(x), None


@forward_rule(FieldGroupNorm)
def field_group_norm(recorder: Recorder, layer: FieldGroupNorm, *inputs: Any, **kwargs: Any) -> Any:
    """Run the layer so that its backward pass records, where it is an ordinary group norm of plain rows."""
    x = inputs[0] if len(inputs) == 1 and not kwargs else None
    if not isinstance(x, Tensor) or not recorder.is_rows(x) or recorder.axis(x) or not layer.ordinary:
        return NotImplemented
    if len(x) != recorder.batch or layer.weight is None or not x.is_floating_point():
        return NotImplemented
    with unseen():
        x = lengthened(x)
        layer.check_input(x)
        out = FieldNormalization.apply(recorder, recorder.anchor, x, layer)
    recorder.mark_rows(out)
    return out
