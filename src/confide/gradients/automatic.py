# SPDX-License-Identifier: Apache-2.0
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
"""`method="auto"`: book-keeping where it works, and the next best where it does not, decided once for each
model."""

from __future__ import annotations

import logging
import weakref
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
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
    """How one model is taken, why not faster, and which doubts a check against the oracle has settled."""

    method: Method
    reasons: tuple[str, ...]
    settled: frozenset[str]
    judged: bool


_choices: weakref.WeakKeyDictionary[nn.Module, Choice] = weakref.WeakKeyDictionary()


def automatic(
    model: nn.Module, loss: Loss, batch: Any, units: Units, clip: Clip
) -> tuple[Part, tuple[str, ...]]:
    """Run the method chosen for this model; the first call chooses."""
    known = _choices.get(model)
    if known is not None:
        try:
            part = known.method(model, loss, batch, units, clip)
            if known.settled.issuperset(part.doubts) and (known.judged or units.count < 2):
                return part, known.reasons
            _choices.pop(model)  # an axis is taken to be the batch where it was not before: check again
        except Unsupported:
            _choices.pop(model)  # the model was changed, or is used in another way now
    return _choose(model, loss, batch, units, clip)


def _choose(
    model: nn.Module, loss: Loss, batch: Any, units: Units, clip: Clip
) -> tuple[Part, tuple[str, ...]]:
    reasons: list[str] = []
    by_layer: set[str] = set()
    for _ in range(1 + sum(1 for _ in model.modules())):
        method = partial(by_bookkeeping, by_vmap=frozenset(by_layer)) if by_layer else by_bookkeeping
        try:
            # First, on few rows: what it leaves in memory for good then lies below the room of whole batches.
            right = scrutinised(method, model, loss, batch, units, clip)
            part = method(model, loss, batch, units, clip)
        except LossError:
            with suppress(Unsupported):
                method(model, loss, batch, units, clip)  # says it of the batch that the user knows
            raise
        except Unsupported as error:
            layer = _owner(model, error.parameters)
            if layer is not None and layer not in by_layer:
                by_layer.add(layer)
                reasons.append(f"vmap of layer {layer!r}: {error.reason}")
                continue
            reasons.append(f"not book-keeping: {error.reason}")
            break
        if right is False:
            doubt = part.doubts[0] if part.doubts else "norms differ"
            reasons.append(f"not book-keeping: a check against the oracle failed ({doubt})")
            break
        return _decide(model, method, part, reasons, judged=right is not None)
    try:
        part = by_vmap(model, loss, batch, units, clip)
        reasons.append("vmap of the whole model")
        return _decide(model, by_vmap, part, reasons, judged=units.count > 1)
    except ConfideError:
        raise
    except (RuntimeError, NotImplementedError, ValueError, TypeError) as error:
        reasons.append(f"not vmap: {' '.join(str(error).split())[:160]}")
    reasons.append("one sample at a time")
    part = by_loop(model, loss, batch, units, clip)
    return _decide(model, by_loop, part, reasons, judged=units.count > 1)


def _decide(
    model: nn.Module, method: Method, part: Part, reasons: list[str], *, judged: bool
) -> tuple[Part, tuple[str, ...]]:
    # One unit alone, or losses of which none is finite, show nothing about mixing: the next batch is judged.
    choice = Choice(method, tuple(reasons), frozenset(part.doubts if judged else ()), judged)
    _choices[model] = choice
    if reasons:
        _log.warning("%s: %s", type(model).__name__, "; ".join(reasons))
    return part, choice.reasons


def _owner(model: nn.Module, parameters: tuple[int, ...]) -> str | None:
    """Name of the leaf module that owns one of these parameters alone; None where there is none."""
    wanted = set(parameters)
    for name, module in model.named_modules():
        leaf = not any(True for _ in module.children())
        if name and leaf and any(id(p) in wanted for p in module.parameters(recurse=False)):
            return name
    return None
