# SPDX-License-Identifier: Apache-2.0
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
"""Clipped sums of per-unit gradients.

*Formal guarantee.* `sums` is Σ_u f_u·g_u over the units of the batch, where g_u is the mean of the
gradients of the unit's rows and f_u what `clipping.factors` gives for its norm. Rows of other units do not
enter g_u. A unit whose gradient is not finite adds exactly zero, by the same operations as any other.

| case | result |
|---|---|
| batch of none | zero sums, norms of shape (0,) |
| a parameter the loss does not use | gradient zero |
| K rows of one unit | averaged, then clipped |
| any `physical_batch_size`, any method | the same sums up to rounding |
| `fill` | the same sums, and what a unit adds does not depend on how many others there are |
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from confide.errors import InputError, UnsupportedLayerError
from confide.gradients.automatic import automatic, insisted
from confide.gradients.bookkeeping import Unsupported, by_bookkeeping
from confide.gradients.fallback import Method, Part, by_loop, by_vmap
from confide.gradients.filling import in_filled_parts
from confide.gradients.memory import keep_freed_memory
from confide.gradients.parts import Run, fastest_rows, in_parts
from confide.gradients.precision import lengthened
from confide.gradients.reference import Loss, batch_length
from confide.gradients.scrutiny import refuse_mixing, unchanged_buffers, uncompiled
from confide.gradients.units import Clip, Units
from confide.gradients.walking import trainable, walked_once
from confide.mechanisms.clipping import Clipping, FlatClipping

_METHODS: dict[str, Method] = {"book-keeping": by_bookkeeping, "vmap": by_vmap, "loop": by_loop}


@dataclass(frozen=True)
class ClippedGradient:
    """A clipped sum, un-noised and un-divided.

    Attributes:
        sums: name -> tensor of the parameter's shape, float32 at least: Σ over units of clipped gradients.
        norms: (U,) norm of each unit's gradient before clipping, float64.
        losses: (B,) loss of each row.
        factors: (U, G) clip factor of each unit and clip group, float64.
        fallbacks: What was not computed by book-keeping, and why.
    """

    sums: dict[str, Tensor]
    norms: Tensor = field(repr=False)
    losses: Tensor = field(repr=False)
    factors: Tensor = field(repr=False)
    fallbacks: tuple[str, ...] = ()


def clipped_gradient(
    model: nn.Module,
    loss: Loss,
    batch: Any,
    *,
    clip_norm: float | None = None,
    clipping: Clipping | None = None,
    units: Tensor | None = None,
    method: str = "auto",
    physical_batch_size: int | None = None,
    fill: bool = False,
) -> ClippedGradient:
    """Sum over units of clipped gradients.

    Args:
        model: Its parameters with `requires_grad` count; nothing is left on it.
        loss: `loss(model, batch) -> (B,)`.
        batch: Any pytree of tensors with leading dimension B.
        clip_norm: Norm C of flat clipping; or give `clipping`.
        units: (B,) integer label of each row's privacy unit; default: each row is its own.
        method: "auto" takes the fastest that works; "book-keeping", "vmap" and "loop" insist.
        physical_batch_size: Most rows in memory at once; parts are cut between units. With "auto" they may be
            fewer, if that takes less time.
        fill: Fill every physical batch up to that size with rows of weight zero. Needed for the bound on one
            unit where a model computes in less than float32: see `confide.gradients.filling`.

    Raises:
        UnsupportedLayerError: If a layer mixes samples; names it and the remedy.
        LossError: If the loss does not return one value per row.
        ModelError: If nothing is trainable.
        InputError: If arguments contradict each other.
    """
    if (clip_norm is None) == (clipping is None):
        raise InputError("give one of clip_norm and clipping")
    if clipping is None:
        assert clip_norm is not None
        clipping = FlatClipping(clip_norm)
    if method != "auto" and method not in _METHODS:
        raise InputError(f"unknown method {method!r}", remedy=f"Choose one of: auto, {', '.join(_METHODS)}.")
    if physical_batch_size is not None and physical_batch_size < 1:
        raise InputError(f"physical batch size {physical_batch_size} is below 1")
    if fill and physical_batch_size is None:
        raise InputError("fill needs a physical batch size, to which batches are filled up")
    with walked_once(model):
        part, why = _clipped_sums(model, loss, batch, clipping, units, method, physical_batch_size, fill)
    return ClippedGradient(part.sums, part.norms, part.losses, part.factors, why)


def _clipped_sums(
    model: nn.Module,
    loss: Loss,
    batch: Any,
    clipping: Clipping,
    units: Tensor | None,
    method: str,
    physical_batch_size: int | None,
    fill: bool,
) -> tuple[Part, tuple[str, ...]]:
    parameters = trainable(model)
    device = next(iter(parameters.values())).device
    if device.type == "cpu":
        keep_freed_memory()
    rows = batch_length(batch)
    clip = Clip(clipping, list(parameters), device)
    if rows == 0:
        empty = clip(torch.zeros((0, len(parameters)), dtype=torch.float64, device=device))
        sums = {name: lengthened(torch.zeros_like(p)) for name, p in parameters.items()}
        return Part(sums, empty[0], empty[1], torch.zeros(0, device=device)), ()
    refuse_mixing(model)
    owners = Units.of(units, rows, device)
    run = automatic if method == "auto" else _insisting(method)
    most = min(rows, physical_batch_size or rows)
    with unchanged_buffers(model), uncompiled():
        if fill and physical_batch_size is not None:
            grouped = units is not None
            return in_filled_parts(
                run, model, loss, batch, owners, clip, physical_batch_size, grouped=grouped
            )
        if method == "auto":
            most = fastest_rows(run, model, loss, batch, owners, clip, most)
        return in_parts(run, model, loss, batch, owners, clip, most)


def _insisting(name: str) -> Run:
    """A method that the user chose: what it cannot do is an error, not a fallback."""

    def run(
        model: nn.Module, loss: Loss, batch: Any, owners: Units, clip: Clip
    ) -> tuple[Part, tuple[str, ...]]:
        try:
            return insisted(_METHODS[name], model, loss, batch, owners, clip)
        except Unsupported as error:
            raise UnsupportedLayerError(
                f"{name} cannot take this model: {error.reason}",
                remedy="Use method='auto', which falls back.",
            ) from None

    return run
