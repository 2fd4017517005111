# SPDX-License-Identifier: Apache-2.0
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
"""`method="auto"`: book-keeping where it works, and the next best where it does not, decided once for each
model and loss."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from types import CodeType
from typing import Any

from torch import nn

from confide.errors import ConfideError, LossError
from confide.gradients.bookkeeping import Unsupported, by_bookkeeping
from confide.gradients.fallback import Method, Part, by_loop, by_vmap
from confide.gradients.reference import Loss
from confide.gradients.scrutiny import scrutinised
from confide.gradients.units import Clip, Units

_log = logging.getLogger("confide.gradients")


@dataclass(frozen=True)
class Choice:
    """How one model is taken with one loss.

    Attributes:
        method: Of book-keeping, or what it falls back to.
        reasons: Why not faster.
        settled: Doubts that the check of few rows has settled.
        judged: Whether that check showed anything.
        lengths: What the check of a whole batch found, by its number of rows and the doubts that few rows do
            not raise: they rest on a length that happens to be that of the batch.
    """

    method: Method
    reasons: tuple[str, ...] = ()
    settled: frozenset[str] = frozenset()
    judged: bool = True
    lengths: dict[tuple[int, frozenset[str]], bool] = field(default_factory=dict[Any, bool])


_choices: weakref.WeakKeyDictionary[nn.Module, dict[Hashable, Choice]] = weakref.WeakKeyDictionary()


def automatic(
    model: nn.Module, loss: Loss, batch: Any, units: Units, clip: Clip
) -> tuple[Part, tuple[str, ...]]:
    """Run the method chosen for this model and loss; the first call chooses."""
    choices = _choices.setdefault(model, {})
    key = kind(loss)
    known = choices.get(key)
    # One unit alone, or losses of which none is finite, show nothing about mixing: the next batch is judged.
    if known is not None and (known.judged or units.count < 2):
        try:
            part = known.method(model, loss, batch, units, clip)
        except Unsupported:
            pass  # the model was changed, or is used in another way now
        else:
            return _settled(known, part, model, loss, batch, units, clip)
    choices.pop(key, None)
    choice, part = _choose(model, loss, batch, units, clip)
    choices[key] = choice
    if choice.reasons:
        _log.warning("%s: %s", type(model).__name__, "; ".join(choice.reasons))
    return _settled(choice, part, model, loss, batch, units, clip)


def insisted(
    method: Method, model: nn.Module, loss: Loss, batch: Any, units: Units, clip: Clip
) -> tuple[Part, tuple[str, ...]]:
    """One method or an error; checked as `automatic` checks it.

    Raises:
        Unsupported: If it cannot take the model, or is found wrong.
    """
    choices = _choices.setdefault(model, {})
    key = (method, kind(loss))
    known = choices.get(key)
    if known is None or not (known.judged or units.count < 2):
        right, doubts = scrutinised(method, model, loss, batch, units, clip)
        if right is False:
            raise Unsupported("its sums differ from those of ordinary autograd, one sample at a time")
        known = choices[key] = Choice(method, settled=doubts, judged=right is not None)
    part = method(model, loss, batch, units, clip)
    doubt = _doubt(known, part, model, loss, batch, units, clip)
    if doubt is not None:
        raise Unsupported(doubt)
    return part, ()


def kind(loss: Callable[..., object], depth: int = 3) -> Hashable:
    """What tells losses apart: their code, and that of what they enclose; for many are made anew for every
    step."""
    if isinstance(loss, partial):
        return "partial", kind(loss.func, depth - 1), _settings(loss.keywords), repr(len(loss.args))
    function: Any = getattr(loss, "__func__", loss)
    code = getattr(function, "__code__", None)
    if not isinstance(code, CodeType):
        return type(loss), _settings(getattr(loss, "__dict__", {}))
    enclosed: list[Hashable] = []
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # an empty cell
            value = cell.cell_contents
            if callable(value) and not isinstance(value, nn.Module) and depth > 0:
                enclosed.append(kind(value, depth - 1))
            elif isinstance(value, bool | int | str | None):
                enclosed.append(value)
    return code, tuple(enclosed)


def _settings(values: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    plain = {name: value for name, value in values.items() if isinstance(value, bool | int | str | None)}
    return tuple((name, repr(value)) for name, value in sorted(plain.items()))


def _settled(
    choice: Choice, part: Part, model: nn.Module, loss: Loss, batch: Any, units: Units, clip: Clip
) -> tuple[Part, tuple[str, ...]]:
    """The part, if its doubts are settled; else what the next best method gives for this batch."""
    doubt = _doubt(choice, part, model, loss, batch, units, clip)
    if doubt is None:
        return part, choice.reasons
    reasons = [f"not book-keeping for this batch: {doubt}"]
    _, part = _next_best(reasons, model, loss, batch, units, clip)
    return part, (*choice.reasons, *reasons)


def _doubt(
    choice: Choice, part: Part, model: nn.Module, loss: Loss, batch: Any, units: Units, clip: Clip
) -> str | None:
    """A doubt about a part that checks do not settle, if any."""
    fresh = frozenset(part.doubts) - choice.settled
    if not fresh or units.count < 2:  # all rows of one unit count alike, whichever is taken for which
        return None
    key = (len(units.index), fresh)
    if key not in choice.lengths:
        right, _ = scrutinised(choice.method, model, loss, batch, units, clip, whole=True)
        choice.lengths[key] = right is True
        if not right:
            # Not how many rows: that is not public.
            _log.warning("%s: not book-keeping for some batches: %s", type(model).__name__, min(fresh))
    return None if choice.lengths[key] else min(fresh)


def _choose(model: nn.Module, loss: Loss, batch: Any, units: Units, clip: Clip) -> tuple[Choice, Part]:
    reasons: list[str] = []
    by_layer: set[str] = set()
    for _ in range(1 + sum(1 for _ in model.modules())):
        method = partial(by_bookkeeping, by_vmap=frozenset(by_layer)) if by_layer else by_bookkeeping
        try:
            # First, on few rows: what it leaves in memory for good then lies below the room of whole batches.
            right, doubts = scrutinised(method, model, loss, batch, units, clip)
            if right is False:
                doubt = min(doubts, default="norms differ")
                reasons.append(f"not book-keeping: a check against the oracle failed ({doubt})")
                break
            part = method(model, loss, batch, units, clip)
            return Choice(method, tuple(reasons), doubts, judged=right is not None), part
        except LossError:
            with suppress(Unsupported):
                method(model, loss, batch, units, clip)  # says it of the batch that the user knows
            raise
        except Unsupported as error:
            layer = _owner(model, error.parameters)
            if layer is None or layer in by_layer:
                reasons.append(f"not book-keeping: {error.reason}")
                break
            by_layer.add(layer)
            reasons.append(f"vmap of layer {layer!r}: {error.reason}")
    best, part = _next_best(reasons, model, loss, batch, units, clip)
    right, _ = scrutinised(best, model, loss, batch, units, clip)
    if right is False and best is by_vmap:
        reasons[-1:] = ["not vmap: a check against the oracle failed", "one sample at a time"]
        best, part = by_loop, by_loop(model, loss, batch, units, clip)
    return Choice(best, tuple(reasons), judged=units.count > 1), part


def _next_best(
    reasons: list[str], model: nn.Module, loss: Loss, batch: Any, units: Units, clip: Clip
) -> tuple[Method, Part]:
    """`vmap` of the whole model, or one sample at a time; adds to the reasons what was taken."""
    try:
        part = by_vmap(model, loss, batch, units, clip)
        reasons.append("vmap of the whole model")
        return by_vmap, part
    except ConfideError:
        raise
    except Exception as error:  # if it is the user's own, it comes again from the loop
        reasons.append(f"not vmap: {' '.join(str(error).split())[:160]}")
    reasons.append("one sample at a time")
    return by_loop, by_loop(model, loss, batch, units, clip)


def _owner(model: nn.Module, parameters: tuple[int, ...]) -> str | None:
    """Name of the leaf module that owns one of these parameters alone; None where there is none."""
    wanted = set(parameters)
    for name, module in model.named_modules():
        leaf = not any(True for _ in module.children())
        if name and leaf and any(id(p) in wanted for p in module.parameters(recurse=False)):
            return name
    return None
