# SPDX-License-Identifier: Apache-2.0
"""`method="auto"`: book-keeping where it works, and the next best where it does not, decided once for each model."""

from __future__ import annotations

import logging
import weakref
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_map

from confide.errors import ConfideError, UnsupportedLayerError
from confide.gradients.bookkeeping import Unsupported, agrees, by_bookkeeping
from confide.gradients.fallback import Method, Part, by_loop, by_vmap
from confide.gradients.reference import Loss
from confide.gradients.units import Clip, Units

_log = logging.getLogger("confide.gradients")


@dataclass(frozen=True)
class Choice:
    """How one model is taken, and why not faster."""

    method: Method
    reasons: tuple[str, ...]


_choices: weakref.WeakKeyDictionary[nn.Module, Choice] = weakref.WeakKeyDictionary()


def automatic(
    model: nn.Module, loss: Loss, batch: Any, units: Units, clip: Clip
) -> tuple[Part, tuple[str, ...]]:
    """Run the method chosen for this model; the first call chooses."""
    known = _choices.get(model)
    if known is not None:
        try:
            return known.method(model, loss, batch, units, clip), known.reasons
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
            part = method(model, loss, batch, units, clip)
        except Unsupported as error:
            layer = _owner(model, error.parameters)
            if layer is not None and layer not in by_layer:
                by_layer.add(layer)
                reasons.append(f"vmap of layer {layer!r}: {error.reason}")
                continue
            reasons.append(f"not book-keeping: {error.reason}")
            break
        if part.doubts and not agrees(method, model, loss, _few(batch, units), _few_units(units), clip):
            reasons.append(f"not book-keeping: a check against the oracle failed ({part.doubts[0]})")
            break
        return _decide(model, method, part, reasons)
    try:
        part = by_vmap(model, loss, batch, units, clip)
        reasons.append("vmap of the whole model")
        return _decide(model, by_vmap, part, reasons)
    except ConfideError:
        raise
    except (RuntimeError, NotImplementedError, ValueError, TypeError) as error:
        reasons.append(f"not vmap: {' '.join(str(error).split())[:160]}")
    reasons.append("one sample at a time")
    return _decide(model, by_loop, by_loop(model, loss, batch, units, clip), reasons)


def _decide(model: nn.Module, method: Method, part: Part, reasons: list[str]) -> tuple[Part, tuple[str, ...]]:
    choice = Choice(method, tuple(reasons))
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


def _few_rows(units: Units) -> Tensor:
    """Rows of the first two units."""
    return (units.index < 2).nonzero()[:, 0]


def _few(batch: Any, units: Units) -> Any:
    rows = _few_rows(units)
    return tree_map(lambda leaf: leaf[rows.to(leaf.device)] if isinstance(leaf, Tensor) else leaf, batch)


def _few_units(units: Units) -> Units:
    index = units.index[_few_rows(units)]
    return Units.of(index, len(index), index.device)


_BATCH_NORMS = (nn.modules.batchnorm._BatchNorm, nn.SyncBatchNorm)


def refuse_mixing(model: nn.Module) -> None:
    """Refuse layers known to mix samples or to keep un-noised statistics, before anything runs.

    Raises:
        UnsupportedLayerError: Names the layer and the remedy.
    """
    for name, layer in model.named_modules():
        if isinstance(layer, _BATCH_NORMS) and (layer.training or not layer.track_running_stats):
            raise UnsupportedLayerError(
                f"layer {name!r} is {type(layer).__name__}: it mixes the samples of a batch, so no per-sample gradient exists",
                remedy="confide.repair(model) replaces it by GroupNorm; or call .eval() on it to freeze its statistics.",
            )
        keeps = isinstance(layer, nn.modules.instancenorm._InstanceNorm) and layer.track_running_stats
        if keeps and layer.training:
            raise UnsupportedLayerError(
                f"layer {name!r} is {type(layer).__name__} with running statistics, which would leave the model un-noised",
                remedy="confide.repair(model) switches them off.",
            )
