# SPDX-License-Identifier: Apache-2.0
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
"""Does a model treat its samples apart, and does book-keeping see it right? Asked once for each model and
way of use."""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]
from torch.nn.modules.dropout import _DropoutNd  # pyright: ignore[reportPrivateUsage]
from torch.nn.modules.instancenorm import _InstanceNorm  # pyright: ignore[reportPrivateUsage]

from confide.errors import UnsupportedLayerError
from confide.gradients.fallback import Method, Part, by_loop
from confide.gradients.reference import Loss, pick
from confide.gradients.tuning import kernels
from confide.gradients.units import Clip, Units


def refuse_mixing(model: nn.Module) -> None:
    """Refuse layers known to mix samples or to keep un-noised statistics, before anything runs.

    Raises:
        UnsupportedLayerError: Names the layer and the remedy.
    """
    for layer in model.modules():
        if isinstance(layer, _BatchNorm) and (layer.training or not layer.track_running_stats):
            name = _name(model, layer)
            raise UnsupportedLayerError(
                f"layer {name!r} is {type(layer).__name__}: it mixes the samples of a batch, "
                "so no per-sample gradient exists",
                remedy="confide.repair(model) replaces it by GroupNorm; or call .eval() on it to freeze its "
                "statistics.",
            )
        if isinstance(layer, _InstanceNorm) and layer.track_running_stats and layer.training:
            name = _name(model, layer)
            raise UnsupportedLayerError(
                f"layer {name!r} is {type(layer).__name__} with running statistics, which would leave the "
                "model un-noised",
                remedy="confide.repair(model) switches them off.",
            )


def _name(model: nn.Module, layer: nn.Module) -> str:
    return next(name for name, module in model.named_modules() if module is layer)


@contextmanager
def unchanged_buffers(model: nn.Module) -> Generator[None]:
    """Refuse a forward pass that changes a buffer: it would keep un-noised traces of the batch.

    Raises:
        UnsupportedLayerError: Names the buffer and the remedy.
    """
    before = {name: (buffer, buffer._version) for name, buffer in model.named_buffers()}
    yield
    for name, buffer in model.named_buffers():
        known = before.get(name)
        if known is None or known[0] is not buffer or known[1] != buffer._version:
            raise UnsupportedLayerError(
                f"the buffer {name!r} changes in a training forward pass",
                why="It would carry un-noised traces of the batch out of the mechanism.",
                remedy="confide.repair(model), or call .eval() on its layer.",
            )


@contextmanager
def uncompiled() -> Generator[None]:
    """Within, parts of a model under `torch.compile` run as written: a compiled graph hides its
    operations."""
    if "torch._dynamo" not in sys.modules:  # nothing can be compiled, and importing it takes a second
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


def scrutinised(method: Method, model: nn.Module, loss: Loss, batch: Any, units: Units, clip: Clip) -> bool:
    """Whether a method gives the one-by-one oracle's norms on the rows of two units; dropout is off
    meanwhile.

    A model that is random all the same cannot be judged and passes.

    Raises:
        UnsupportedLayerError: If a sample's loss depends on what else is in the batch.
    """
    rows = (units.index < 2).nonzero()[:, 0]
    if units.count < 2:
        return True
    few = pick(batch, rows)
    theirs_units = Units.of(units.index[rows], len(rows), units.index.device)
    with torch.random.fork_rng(), _without_dropout(model), kernels("model"):
        ours = method(model, loss, few, theirs_units, clip)
        once = by_loop(model, loss, few, theirs_units, clip)
        if _close(ours.losses, once.losses) and _close(ours.norms, once.norms):
            return True
        again = by_loop(model, loss, few, theirs_units, clip)
    if not _same(once, again):
        return True
    # A loss near zero is the difference of large scores, so its rounding does not shrink with it.
    if not _close(ours.losses, once.losses, least=_SCORES):
        raise UnsupportedLayerError(
            "the loss of a sample changes with the other samples of its batch, so no per-sample gradient "
            "exists",
            remedy="confide.inspect(model) names the layer, confide.repair(model) replaces it. If the loss "
            "itself averages over the batch, let it return one value per sample.",
        )
    return False


# Losses are held against this scale at least.
_SCORES = 0.01


def _close(ours: Tensor, theirs: Tensor, least: float = 1e-12) -> bool:
    """Equal up to what float32 or autocast in two orders of summation may differ; NaN equals NaN."""
    finite = theirs.isfinite()
    if not bool(finite.any()):
        return True
    loose = 0.05 if torch.is_autocast_enabled(theirs.device.type) else 1e-3
    scale = theirs[finite].abs().max().clamp_min(least)
    return bool(((ours - theirs)[finite].abs() <= loose * scale).all())


def _same(once: Part, again: Part) -> bool:
    return torch.equal(once.losses.nan_to_num(), again.losses.nan_to_num())


@contextmanager
def _without_dropout(model: nn.Module) -> Generator[None]:
    changed = [layer for layer in model.modules() if isinstance(layer, _DropoutNd) and layer.training]
    for layer in changed:
        layer.training = False
    try:
        yield
    finally:
        for layer in changed:
            layer.training = True
