# SPDX-License-Identifier: Apache-2.0
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
"""Does a model treat its samples apart, and does book-keeping see it right? Asked once for each model and
way of use."""

from __future__ import annotations

import copy
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]
from torch.nn.modules.instancenorm import _InstanceNorm  # pyright: ignore[reportPrivateUsage]
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from confide.errors import ConfideError, UnsupportedLayerError
from confide.gradients.fallback import Method
from confide.gradients.quiet import quiet
from confide.gradients.recorder import Unsupported
from confide.gradients.reference import Loss, is_image_of_bytes, loop_gradients, pick, stand_in
from confide.gradients.rules.conv import InHalves
from confide.gradients.traces import Trace, refuse_traces, traces
from confide.gradients.tuning import kernels
from confide.gradients.units import Clip, Units, add_into, squared_norms
from confide.gradients.walking import named_layers

_Verdict = Literal["agrees", "nearly", "differs", "mixes"]
# What float32 and autocast may differ by in two orders of summation, relative to the largest.
_LOOSE, _SHORT = 1e-3, 0.05
_AGAIN = 30  # times that a model that draws is asked again
_STRICT = 1e-5  # of losses: rows that are much alike move each other's by little where they are mixed


def refuse_mixing(model: nn.Module) -> None:
    """Refuse layers known to mix samples or to keep un-noised statistics, before anything runs.

    Raises:
        UnsupportedLayerError: Names the layer and the remedy.
    """
    for name, layer in named_layers(model):
        if isinstance(layer, _BatchNorm) and (layer.training or not layer.track_running_stats):
            raise UnsupportedLayerError(
                f"layer {name!r} is {type(layer).__name__}: it mixes the samples of a batch, "
                "so no per-sample gradient exists",
                remedy="confide.repair(model) replaces it by GroupNorm; or call .eval() on it to freeze its "
                "statistics.",
            )
        if isinstance(layer, _InstanceNorm) and layer.track_running_stats and layer.training:
            raise UnsupportedLayerError(
                f"layer {name!r} is {type(layer).__name__} with running statistics, which would leave the "
                "model un-noised",
                remedy="confide.repair(model) switches them off.",
            )


@contextmanager
def unchanged_buffers(model: nn.Module) -> Generator[None]:
    """Refuse a forward pass that changes a buffer: it would keep un-noised traces of the batch.

    Raises:
        UnsupportedLayerError: Names the buffer and the remedy.
    """
    before = {name: (buffer, buffer._version) for name, buffer in _buffers(named_layers(model))}
    yield
    for name, buffer in _buffers(named_layers(model, anew=True)):
        known = before.get(name)
        if known is None or known[0] is not buffer or known[1] != buffer._version:
            raise UnsupportedLayerError(
                f"the buffer {name!r} changes in a training forward pass",
                why="It would carry un-noised traces of the batch out of the mechanism.",
                remedy="confide.repair(model), or call .eval() on its layer.",
            )


def _buffers(layers: list[tuple[str, nn.Module]]) -> list[tuple[str, Tensor]]:
    return [
        (f"{front}.{key}" if front else key, buffer)
        for front, layer in layers
        for key, buffer in layer._buffers.items()  # pyright: ignore[reportPrivateUsage]
        if buffer is not None
    ]


@contextmanager
def uncompiled() -> Generator[None]:
    """Within, parts of a model under `torch.compile` run as written: a compiled graph hides its
    operations."""
    if "torch._dynamo" not in sys.modules:  # nothing can be compiled, and importing it takes a second
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


@dataclass(frozen=True)
class _Case:
    """A way of using a model, and the rows on which it is to be judged."""

    method: Method
    model: nn.Module
    loss: Loss
    owners: Units
    clip: Clip


def scrutinised(
    method: Method, model: nn.Module, loss: Loss, batch: Any, units: Units, clip: Clip, *, whole: bool = False
) -> tuple[bool | None, frozenset[str]]:
    """Whether a method gives the one-by-one oracle's norms on the rows of two units, and the doubts that it
    had about them. None where that shows nothing: there is one unit, or no loss is finite.

    Random numbers stand for the rows' floating-point ones. What is refused, and which method is taken, must
    not follow from anybody's image; and an image of one grey makes normalisation a matter of rounding. Only a
    loss that cannot take such numbers is judged on the rows themselves. Of integers, which stay, the two
    units differ as much as any.

    Dropout is off meanwhile, and torch draws fixed numbers; a model that is random all the same cannot be
    judged and passes. Unless losses agree to five digits, a copy is judged in float64 before a model is found
    wanting: narrow normalisation can blow float32's rounding up to any size, and mixed rows that are alike
    move each other's loss by little.

    Args:
        whole: All rows, instead of those of two units.

    Raises:
        UnsupportedLayerError: If a sample's loss depends on what else is in the batch, or was before.
    """
    if units.count < 2:
        return None, frozenset()
    right, doubts = _asked(method, model, loss, batch, units, clip, None if whole else 2)
    if right is False and doubts and not whole and units.count > 2:
        # With three: a length that happens to be two, as of two classes, is then not that of the batch.
        right, doubts = _asked(method, model, loss, batch, units, clip, 3)
    return right, doubts


def _asked(
    method: Method, model: nn.Module, loss: Loss, batch: Any, units: Units, clip: Clip, most: int | None
) -> tuple[bool | None, frozenset[str]]:
    rows = _chosen_rows(batch, units, most)
    few = pick(batch, rows)
    case = _Case(method, model, loss, Units.of(units.index[rows], len(rows), units.index.device), clip)
    doubts: set[str] = set()
    with torch.random.fork_rng():
        numbers = stand_in(few)
    try:
        verdict = _verdict(case, numbers, doubts)
    except (ConfideError, Unsupported):
        raise
    except Exception:
        verdict = None
    if verdict is None:
        verdict = _verdict(case, few, doubts)
    if verdict == "mixes":
        raise UnsupportedLayerError(
            "the loss of a sample changes with the other samples of its batch, so no per-sample gradient "
            "exists",
            remedy="confide.inspect(model) names the layer, confide.repair(model) replaces it. If the loss "
            "itself averages over the batch, let it return one value per sample.",
        )
    return None if verdict is None else verdict != "differs", frozenset(doubts)


def _chosen_rows(batch: Any, units: Units, most: int | None) -> Tensor:
    """Numbers of the rows of `most` units: the first, and those whose integers differ most from its."""
    index = units.index
    if most is None or units.count <= most:
        return torch.arange(len(index), device=index.device)
    order = index.argsort(stable=True)
    first = order[torch.searchsorted(index[order], torch.arange(units.count, device=index.device))]
    apart = torch.zeros(units.count, dtype=torch.float64, device=index.device)
    for leaf in tree_leaves(batch):
        if isinstance(leaf, Tensor) and not (
            leaf.is_floating_point() or leaf.is_complex() or is_image_of_bytes(leaf)
        ):
            own = leaf.to(index.device)[first].reshape(units.count, -1)
            if own.shape[1]:
                apart += (own != own[:1]).double().mean(1)
    apart[0] = torch.inf
    return torch.isin(index, apart.argsort(descending=True, stable=True)[:most]).nonzero()[:, 0]


def _verdict(case: _Case, few: Any, doubts: set[str]) -> _Verdict | None:
    """What `_judged` says, in float64 if that can be had wherever it would be held against the model."""
    verdict = _judged(case, few, doubts)
    if verdict in (None, "agrees"):
        return verdict
    try:
        exact = replace(case, model=copy.deepcopy(case.model).double())
        found = _judged(exact, tree_map(_doubled, few), doubts)
        return "mixes" if found == "nearly" else found or verdict  # float64 does not round that much
    except Exception:  # a copy or its loss may fail in any way; float32's word then stands
        return verdict


def _doubled(leaf: object) -> object:
    return leaf.double() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf


def _judged(case: _Case, few: Any, doubts: set[str]) -> _Verdict | None:
    """Whether the method agrees with the oracle, nearly, differs, or the model mixes; None: no loss is
    finite. Adds the method's doubts."""
    model, loss, owners = case.model, case.loss, case.owners
    with quiet(model), kernels("model"):
        with unchanged_buffers(model):  # what vmap has left there cannot even be looked at
            part = case.method(model, loss, few, owners, case.clip)
        losses, norms = part.losses, part.norms
        doubts.update(part.doubts)
        del part  # its sums are as large as the model
        device = owners.index.device
        before = _drawn(device)
        with _Watched(device.type) as seen, InHalves():
            once, their_norms = _one_by_one(model, loss, few, owners)
        if not bool(once.isfinite().any()):
            return None
        most = _SHORT if seen.autocast else _LOOSE
        alike = _close(losses, once, most) and _close(norms, their_norms, most)
        if alike and _close(losses, once, _STRICT):
            return "agrees"
        # A model that draws may draw the same once more.
        for _ in range(1 if torch.equal(before, _drawn(device)) else _AGAIN):
            with InHalves():
                again, _ = _one_by_one(model, loss, few, owners)
            if not torch.equal(once.nan_to_num(), again.nan_to_num()):
                return "agrees"
    return "nearly" if alike else "differs" if _close(losses, once, most) else "mixes"


def _drawn(device: torch.device) -> Tensor:
    """The state of torch's generators."""
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return torch.cat(states)


class _Watched(TorchFunctionMode):
    """Notes whether autocast was on for any torch function, inside a loss, too."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.autocast = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.autocast = self.autocast or torch.is_autocast_enabled(self.kind)
        return func(*args, **(kwargs or {}))


def _one_by_one(model: nn.Module, loss: Loss, batch: Any, units: Units) -> tuple[Tensor, Tensor]:
    """Losses (B,) and norms (U,) by ordinary autograd, with one unit's gradient in memory.

    Raises:
        UnsupportedLayerError: If a row leaves something behind in the model.
    """
    losses: list[Tensor] = []
    norms: list[Tensor] = []
    weights, index = units.row_weights.tolist(), units.index.tolist()
    unit: dict[str, Tensor] = {}
    before: dict[str, Trace] | None = None
    for row, (gradients, value) in enumerate(loop_gradients(model, loss, batch)):
        losses.append(value)
        scaled = {name: g.mul_(weights[row]) for name, g in gradients.items()}
        if unit:
            add_into(unit.values(), scaled.values())
        else:
            unit = scaled
        if row + 1 == len(index) or index[row + 1] != index[row]:
            norms.append(torch.stack([squared_norms(g[None])[0] for g in unit.values()]).sum().sqrt())
            unit = {}
        if before is None:  # not before the first: it may make tables that all rows share
            before = traces(model)
    refuse_traces(before or {}, traces(model))
    return torch.stack(losses), torch.stack(norms)


def _close(ours: Tensor, theirs: Tensor, most: float) -> bool:
    """Equal but for so much of the largest; NaN equals NaN."""
    finite = theirs.isfinite()
    if not bool(finite.any()):
        return True
    scale = theirs[finite].abs().max().clamp_min(1e-12)
    return bool(((ours - theirs)[finite].abs() <= most * scale).all())
