# SPDX-License-Identifier: Apache-2.0
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
"""Where the batch dimension of a tensor goes when its dimensions are exchanged.

Knowing the batch by its length alone would be wrong once a sequence is as long as the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from confide.gradients.recorder import Recorder

UNKNOWN = -1
_T = Tensor


def _exchanged(recorder: Recorder, x: Tensor, axis: int, args: Any, kwargs: Any) -> int:
    first, second = (*args, *kwargs.values())[:2]
    first, second = first % x.dim(), second % x.dim()
    return second if axis == first else first if axis == second else axis


def _turned(recorder: Recorder, x: Tensor, axis: int, args: Any, kwargs: Any) -> int:
    return x.dim() - 1 - axis


def _turned_last(recorder: Recorder, x: Tensor, axis: int, args: Any, kwargs: Any) -> int:
    return {x.dim() - 1: x.dim() - 2, x.dim() - 2: x.dim() - 1}.get(axis, axis)


def _permuted(recorder: Recorder, x: Tensor, axis: int, args: Any, kwargs: Any) -> int:
    order = kwargs.get("dims", args)
    order = order[0] if len(order) == 1 and isinstance(order[0], tuple | list) else order
    return [d % x.dim() for d in order].index(axis)


def _moved(recorder: Recorder, x: Tensor, axis: int, args: Any, kwargs: Any) -> int:
    source, target = (*args, *kwargs.values())[:2]
    return torch.empty([2 if d == axis else 1 for d in range(x.dim())]).movedim(source, target).shape.index(2)


def _stacked(recorder: Recorder, x: Tensor, axis: int, args: Any, kwargs: Any) -> int:
    dim = int(kwargs.get("dim", args[0] if args else 0))
    dim = dim % (x.dim() + 1)
    return axis + 1 if dim <= axis else axis


def _picked(recorder: Recorder, x: Tensor, axis: int, args: Any, kwargs: Any) -> int:
    """`x[i]`, `x[i, ...]`, `x[None]`; other forms are known only while the batch is in front."""
    index = args[0] if isinstance(args[0], tuple) else (args[0],)
    if axis == 0 and index and index[0] is not None:
        return _picked_behind(x, index)
    place = axis
    for dim, item in enumerate(index):
        if dim > axis or item is Ellipsis:
            break
        if item is None:
            return place + 1 if dim == 0 and len(index) == 1 else UNKNOWN
        if isinstance(item, int) and dim < axis:
            place -= 1
        elif not isinstance(item, slice):
            return UNKNOWN
    return place


def _picked_behind(x: Tensor, index: tuple[Any, ...]) -> int:
    """`x[:, i]` and the like, with the batch in front: where it stands afterwards."""
    lists = [place for place, item in enumerate(index) if isinstance(item, Tensor | list)]
    if lists and lists != list(range(lists[0], lists[-1] + 1)):
        return UNKNOWN  # what lists with something between them pick comes to the front
    if index[0] is Ellipsis:
        return 0 if sum(item is not None for item in index[1:]) < x.dim() else UNKNOWN
    # Rows in another order, or only some of them, are other rows.
    return 0 if isinstance(index[0], slice) or _each_in_turn(index[0], len(x)) else UNKNOWN


def _each_in_turn(index: object, rows: int) -> bool:
    """Whether an index along the batch is 0, 1, 2, ...: `x[torch.arange(len(x)), place]`."""
    if not isinstance(index, Tensor) or index.dtype == torch.bool or index.numel() != rows or not index.dim():
        return False
    return index.shape[0] == rows and torch.equal(index.flatten(), torch.arange(rows, device=index.device))


def _along(place: int, default: int | None = -1) -> Move:
    """Functions that move what lies along a dimension, their argument at this place behind the tensor; None
    is all of them."""

    def move(recorder: Recorder, x: Tensor, axis: int, args: Any, kwargs: Any) -> int:
        given = kwargs.get("dim", kwargs.get("dims", args[place] if len(args) > place else default))
        if given is None:
            return UNKNOWN
        dims = [given, *args[place + 1 :]] if isinstance(given, int) else list(given)
        return UNKNOWN if any(isinstance(d, int) and d % max(x.dim(), 1) == axis for d in dims) else axis

    return move


def _unbound(recorder: Recorder, x: Tensor, axis: int, args: Any, kwargs: Any) -> int:
    dim = int(kwargs.get("dim", args[0] if args else 0)) % x.dim()
    return axis if dim > axis else axis - 1 if dim < axis else UNKNOWN


def _joined(recorder: Recorder, x: Tensor, axis: int, args: Any, kwargs: Any) -> int:
    """Joined along the batch itself, rows of one sample no longer stand together."""
    return UNKNOWN if int(kwargs.get("dim", args[0] if args else 0)) % x.dim() == axis else axis


def _repeated(recorder: Recorder, x: Tensor, axis: int, args: Any, kwargs: Any) -> int:
    sizes = args[0] if len(args) == 1 and isinstance(args[0], tuple | list) else args
    return axis if len(sizes) == x.dim() and sizes[axis] == 1 else UNKNOWN


def _unknown(recorder: Recorder, x: Tensor, axis: int, args: Any, kwargs: Any) -> int:
    return UNKNOWN


def _one_less(recorder: Recorder, x: Tensor, axis: int, args: Any, kwargs: Any) -> int:
    """`unsqueeze(dim)`."""
    dim = int((*args, *kwargs.values())[0]) % (x.dim() + 1)
    return axis + 1 if dim <= axis else axis


Move = Callable[["Recorder", Tensor, int, Any, Any], int]
MOVING: dict[Any, Move] = {
    **dict.fromkeys(
        (torch.transpose, torch.swapaxes, torch.swapdims, _T.transpose, _T.swapaxes, _T.swapdims), _exchanged
    ),
    **dict.fromkeys((torch.t, _T.t, _T.T.__get__), _turned),  # pyright: ignore[reportAttributeAccessIssue]
    _T.mT.__get__: _turned_last,  # pyright: ignore[reportAttributeAccessIssue]
    **dict.fromkeys((torch.permute, _T.permute), _permuted),
    **dict.fromkeys((torch.movedim, torch.moveaxis, _T.movedim, _T.moveaxis), _moved),
    torch.stack: _stacked,
    **dict.fromkeys((torch.cat, torch.concat, torch.concatenate), _joined),
    **dict.fromkeys((torch.unsqueeze, _T.unsqueeze), _one_less),
    _T.__getitem__: _picked,
    **dict.fromkeys((torch.unbind, _T.unbind), _unbound),
    **dict.fromkeys((_T.repeat, torch.tile, _T.tile), _repeated),
    **dict.fromkeys(
        (
            torch.tensordot,
            torch.masked_select,
            _T.masked_select,
            torch.take,
            _T.take,
            torch.flipud,
            _T.flipud,
        ),
        _unknown,
    ),
    **dict.fromkeys((torch.flip, _T.flip), _along(0)),
    **dict.fromkeys(
        (torch.roll, _T.roll, torch.take_along_dim, _T.take_along_dim, torch.rot90, _T.rot90),
        _along(1, None),
    ),
    **dict.fromkeys((torch.topk, _T.topk), _along(1)),
    **dict.fromkeys(
        (
            *(torch.index_select, _T.index_select, torch.gather, _T.gather),
            *(torch.sort, _T.sort, torch.argsort, _T.argsort),
            *(torch.cumsum, _T.cumsum, torch.cumprod, _T.cumprod, torch.logcumsumexp, _T.logcumsumexp),
            *(torch.scatter, _T.scatter, _T.scatter_, torch.scatter_add, _T.scatter_add, _T.scatter_add_),
            *(torch.index_add, _T.index_add, _T.index_add_, torch.index_copy, _T.index_copy, _T.index_copy_),
        ),
        _along(0),
    ),
}
# Elementwise and the like keep the batch where it is; these shuffle dimensions in ways not followed here.
_LOSING = {
    *(
        torch.reshape,
        _T.reshape,
        _T.view,
        torch.flatten,
        _T.flatten,
        torch.unflatten,
        _T.unflatten,
        torch.squeeze,
    ),
    *(
        _T.squeeze,
        torch.einsum,
        torch.matmul,
        _T.matmul,
        _T.__matmul__,
        torch.bmm,
        _T.bmm,
        torch.select,
        _T.select,
    ),
}


def batch_axis(recorder: Recorder, func: Any, args: Any, kwargs: Any) -> int:
    """Where the batch stands in the output of a function of rows: the dimension, or -1 where unknown."""
    first = _first_rows(recorder, (*args, *kwargs.values()))
    if first is None:
        return UNKNOWN
    axis = recorder.axis(first)
    move = MOVING.get(func)
    if axis == UNKNOWN:
        return UNKNOWN
    if move is not None:
        return move(
            recorder,
            first,
            axis,
            args[1:],
            {k: v for k, v in kwargs.items() if k not in ("input", "tensors")},
        )
    return UNKNOWN if axis and func in _LOSING else axis


def _first_rows(recorder: Recorder, values: Any) -> Tensor | None:
    """The argument that decides: the one whose batch is not in front, if any."""
    found: Tensor | None = None
    for value in values:
        inner = _first_rows(recorder, value) if isinstance(value, list | tuple) else value
        if (
            isinstance(inner, Tensor)
            and recorder.is_rows(inner)
            and (found is None or recorder.axis(inner) != 0)
        ):
            found = inner
    return found
