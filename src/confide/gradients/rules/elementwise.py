# SPDX-License-Identifier: Apache-2.0
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
"""Parameters that meet the batch by broadcasting: biases, scales, position tables, class tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from confide.gradients.recorder import PerSample, Recorder, Unsupported, always
from confide.gradients.rules import operation


def per_sample(
    recorder: Recorder, value: Tensor, dims: int, length: int, origin: Tensor | None = None
) -> Tensor:
    """A derived tensor as it meets a tensor of `dims` dimensions and leading length: one copy for each
    sample.

    value: broadcastable, with leading dimension 1 once it has `dims` dimensions; returns (length, ...).
    origin: The derived tensor of which `value` is a reshaped view; default: `value` itself.
    """
    origin = value if origin is None else origin
    aligned = value if value.dim() >= dims else value.reshape(*[1] * (dims - value.dim()), *value.shape)
    if aligned.dim() != dims or aligned.shape[0] != 1 or length % recorder.batch:
        raise Unsupported(f"a parameter of shape {tuple(value.shape)} meets {length} rows", (id(origin),))
    copies = PerSample.apply(recorder, recorder.anchor, aligned.detach(), [origin])
    if length != recorder.batch:
        recorder.doubtful.add("rows are taken to stand together by sample")
        copies = copies.repeat_interleave(length // recorder.batch, 0)
    return copies


_T = Tensor
_BROADCASTING = [
    *(torch.add, _T.add, _T.add_, _T.__add__, _T.__radd__, _T.__iadd__),
    *(torch.sub, _T.sub, _T.sub_, _T.__sub__, _T.__rsub__, _T.__isub__, torch.rsub),
    *(torch.mul, torch.multiply, _T.mul, _T.mul_, _T.__mul__, _T.__rmul__, _T.__imul__),
    *(torch.div, torch.true_divide, _T.div, _T.div_, _T.__truediv__, _T.__rtruediv__, _T.__itruediv__),
    *(torch.pow, _T.pow, _T.__pow__, torch.maximum, torch.minimum, torch.where, _T.where),
    *(torch.addcmul, _T.addcmul, torch.lerp, _T.lerp),
]


@operation(*_BROADCASTING)
def broadcasting(recorder: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    """Elementwise functions: each derived argument becomes one copy for each sample, and autograd does the
    rest."""
    tensors = [a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)]
    rows = [t for t in tensors if recorder.is_rows(t)]
    dims = max(t.dim() for t in tensors)
    lengths = {t.shape[0] for t in rows if t.dim() == dims and dims}
    if len(lengths) != 1:
        raise Unsupported(
            f"{func} broadcasts the batch", tuple(id(t) for t in tensors if recorder.is_derived(t))
        )
    length = lengths.pop()

    def replaced(value: Any) -> Any:
        return per_sample(recorder, value, dims, length) if recorder.is_derived(value) else value

    return func(*[replaced(a) for a in args], **{k: replaced(v) for k, v in kwargs.items()})


@operation(_T.expand, torch.broadcast_to, _T.broadcast_to, _T.expand_as, _T.repeat)
@always
def expanded(recorder: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    """A parameter copied along a new or single leading dimension as often as there are rows: a class
    token."""
    out = func(*args, **kwargs)
    value = args[0]
    if not recorder.is_derived(value):
        return out
    recorder.copies += 1
    if out.dim() == 0 or out.shape[0] != recorder.batch:
        return out
    if value.dim() == out.dim() and value.shape[0] != 1:
        return out
    if recorder.batch > 1:
        recorder.doubtful.add(
            "a parameter copied as often as there are rows is taken to be copied for each sample "
            f"(copy {recorder.copies})"
        )
    aligned = value.reshape(*[1] * (out.dim() - value.dim()), *value.shape)
    copies = PerSample.apply(recorder, recorder.anchor, aligned.detach(), [value])
    if func is _T.repeat:
        sizes = args[1] if len(args) == 2 and isinstance(args[1], tuple | list) else args[1:]
        copies = copies.repeat(1, *sizes[1:])
    result = copies.expand(out.shape)
    recorder.mark_rows(result)
    return result
