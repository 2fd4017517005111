# SPDX-License-Identifier: Apache-2.0
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
"""Norms first, gradients once: one forward pass, one backward pass without weight gradients, one weighted
sum.

The idea of keeping inputs and output gradients until the clip factors are known is book-keeping (Bu et al.
2023, arXiv:2210.00038). Which of two exact formulas gives a layer's norms is decided for each layer and
shape.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import _engine_run_backward  # pyright: ignore[reportPrivateUsage]
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import CheckpointError

from confide.gradients.captures import Capture, Instantiated, SideBySide, combined
from confide.gradients.fallback import Part
from confide.gradients.layers import own_rules
from confide.gradients.precision import full_precision, lengthened, without_autocast
from confide.gradients.recorder import Recorder, Unsupported, unseen
from confide.gradients.reference import Loss, check_losses
from confide.gradients.rules import OPS
from confide.gradients.units import Clip, Units, refuse_non_finite
from confide.gradients.walking import trainable

__all__ = ["Unsupported", "by_bookkeeping"]


def by_bookkeeping(
    model: nn.Module, loss: Loss, batch: Any, units: Units, clip: Clip, by_vmap: frozenset[str] = frozenset()
) -> Part:
    """Clipped sums of one physical batch; the rows of a unit stand together.

    Args:
        by_vmap: Names of layers to run by `vmap` of the layer.

    Raises:
        Unsupported: If an operation on a parameter has no rule.
        UnsupportedLayerError: If a layer mixes samples.
    """
    parameters = trainable(model)
    complexes = [name for name, p in parameters.items() if p.is_complex()]
    if complexes:
        raise Unsupported(f"{complexes[0]!r} is complex")
    try:
        recorder, losses = record(model, parameters, loss, batch, units, by_vmap)
    except RuntimeError as error:
        if "setup_context" not in str(error):
            raise
        raise Unsupported("a transform of torch.func inside of the model") from None
    with torch.no_grad(), full_precision(losses.device):
        return _finish(recorder, parameters, losses, clip)


def record(
    model: nn.Module,
    parameters: dict[str, nn.Parameter],
    loss: Loss,
    batch: Any,
    units: Units,
    by_vmap: frozenset[str],
) -> tuple[Recorder, Tensor]:
    """Forward and backward pass; afterwards the recorder holds every use of every parameter."""
    rows = [leaf for leaf in tree_leaves(batch) if isinstance(leaf, Tensor)]
    recorder = Recorder(OPS, units, list(parameters.values()), rows)
    try:
        return recorder, _run(recorder, model, parameters, loss, batch, by_vmap)
    finally:
        recorder.outsiders.release()


def _run(
    recorder: Recorder,
    model: nn.Module,
    parameters: dict[str, nn.Parameter],
    loss: Loss,
    batch: Any,
    by_vmap: frozenset[str],
) -> Tensor:
    """Both passes; the losses."""
    units = recorder.units
    with own_rules(model, recorder, by_vmap), recorder, torch.enable_grad():
        losses = check_losses(loss(model, batch), len(units.index))
        if losses.requires_grad:
            # Weighted by one over a unit's rows, gradients of rows add up to the unit's mean.
            total = losses.sum() if units.distinct else (losses * units.row_weights.to(losses.dtype)).sum()
            with _spared(parameters), without_autocast(losses.device):
                # Not Tensor.backward, which would suspend the recorder: a checkpoint runs forward again in
                # here.
                seed = (torch.ones_like(total),)
                try:
                    _engine_run_backward(
                        (total,), seed, False, False, (), allow_unreachable=True, accumulate_grad=True
                    )
                except CheckpointError as error:
                    raise Unsupported(f"a checkpoint runs differently again: {error}"[:200]) from None
            with unseen():
                recorder.outsiders.refuse()
    return losses.detach()


@contextmanager
def _spared(parameters: dict[str, nn.Parameter]) -> Generator[None]:
    """Rules give no gradient to parameters; should autograd find one all the same, it must not stay in
    `.grad`."""
    with unseen():  # the recorder need not look at each of these accesses
        before = {name: p.grad for name, p in parameters.items()}
        for parameter in parameters.values():
            parameter.grad = None
    try:
        yield
        with unseen():
            leaked = [name for name, p in parameters.items() if p.grad is not None]
        if leaked:
            raise Unsupported(
                f"a gradient reached {leaked[0]!r} past all rules", (id(parameters[leaked[0]]),)
            )
    finally:
        with unseen():
            for name, parameter in parameters.items():
                parameter.grad = before[name]


def _finish(recorder: Recorder, parameters: dict[str, nn.Parameter], losses: Tensor, clip: Clip) -> Part:
    """From recorded uses to norms, factors and sums."""
    uses = _through_derived(recorder, parameters)
    columns = {name: column for column, name in enumerate(parameters)}
    formed = [name for name, use in uses.items() if isinstance(use, Instantiated)]
    places = [columns[name] for name in formed]
    together = SideBySide([use for use in uses.values() if isinstance(use, Instantiated)]) if formed else None
    shape = (recorder.units.count, len(parameters))
    squared = torch.zeros(shape, dtype=torch.float64, device=losses.device)
    if together is not None:
        squared[:, places] = together.squared_norms()
    for name, use in uses.items():
        if not isinstance(use, Instantiated):
            squared[:, columns[name]] = use.squared_norms()
    refuse_non_finite(squared, losses, recorder.units)
    norms, factors, each = clip(squared)
    bad = (factors == 0).all(1).nonzero()[:, 0]
    found: dict[str, Tensor] = {}
    if together is not None:
        own = factors if factors.shape[1] == 1 else each[:, places]
        found = {formed[number]: total for number, total in together.small_sums(own, bad).items()}
    sums: dict[str, Tensor] = {}
    for name, parameter in parameters.items():
        use = uses.pop(name, None)
        if use is None:
            sums[name] = lengthened(torch.zeros_like(parameter, requires_grad=False))
            continue
        total = found[name] if name in found else use.weighted(each[:, columns[name]], bad)
        if total.dtype != parameter.dtype:
            total = total.to(torch.promote_types(parameter.dtype, torch.float32))
        sums[name] = total if total.shape == parameter.shape else total.reshape(parameter.shape)
    return Part(sums, norms, factors, losses, tuple(sorted(recorder.doubtful)))


def _through_derived(recorder: Recorder, parameters: dict[str, nn.Parameter]) -> dict[str, Capture]:
    """One capture for each parameter used: uses of derived tensors are carried back to their parameters.

    A derived tensor is a function of parameters alone, the same for every sample, so one batched
    vector-Jacobian product of that function gives every unit's parameter gradient.
    """
    own = {id(p): name for name, p in parameters.items()}
    found: dict[str, list[Capture]] = {}
    for key, captures in recorder.captures.items():
        if key in own:
            found.setdefault(own[key], []).extend(captures)
            continue
        target = recorder.targets[key]
        values = combined(captures).gradients().to(target.dtype)
        gradients = torch.autograd.grad(
            target,
            list(parameters.values()),
            values.reshape(len(values), *target.shape),
            retain_graph=True,
            allow_unused=True,
            is_grads_batched=True,
        )
        for name, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:  # pyright: ignore[reportUnnecessaryComparison]
                found.setdefault(name, []).append(Instantiated(gradient))
    recorder.captures.clear()
    return {name: combined(captures) for name, captures in found.items()}
