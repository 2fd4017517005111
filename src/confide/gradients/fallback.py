# SPDX-License-Identifier: Apache-2.0
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
"""The slow ways to a clipped sum, for models that the engine cannot take apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from confide.gradients.precision import full_precision, lengthened
from confide.gradients.reference import Loss, loop_gradients, vmap_gradients
from confide.gradients.rules.conv import InHalves
from confide.gradients.units import Clip, Units, add_into, refuse_non_finite, squared_norms, without_rows
from confide.gradients.walking import trainable


@dataclass(frozen=True)
class Part:
    """What one physical batch gives: clipped sums, norms (U,), group factors (U, G), losses (B,).

    `doubts` says where an axis was taken to be the batch by its length only, which asks for a check.
    """

    sums: dict[str, Tensor]
    norms: Tensor
    factors: Tensor
    losses: Tensor
    doubts: tuple[str, ...] = ()


Method = Callable[[nn.Module, Loss, Any, Units, Clip], Part]


def clip_stacked(gradients: dict[str, Tensor], losses: Tensor, units: Units, clip: Clip) -> Part:
    """Clip and sum gradients that are already there: name -> (U, *shape). Consumes them."""
    squared = torch.stack([squared_norms(value) for value in gradients.values()], 1)
    refuse_non_finite(squared, losses, units)
    norms, factors, each = clip(squared)
    # 0·∞ is NaN: the rows of a unit that must contribute nothing are zeroed, not only weighted by zero.
    bad = (factors == 0).all(1).nonzero()[:, 0]
    with full_precision(losses.device):
        sums = {
            # Factors of eight bits would round up.
            name: torch.tensordot(each[:, k].to(value.dtype), without_rows(value, bad), dims=1)
            for k, (name, value) in enumerate((n, lengthened(v)) for n, v in gradients.items())
        }
    return Part(sums, norms, factors, losses)


def by_vmap(model: nn.Module, loss: Loss, batch: Any, units: Units, clip: Clip) -> Part:
    """`vmap` over the whole model."""
    gradients, losses = vmap_gradients(model, loss, batch)
    weights = units.row_weights
    if not units.distinct:
        gradients = {
            name: units.sum_rows(value * weights.to(value.dtype).view(-1, *[1] * (value.dim() - 1)))
            for name, value in gradients.items()
        }
    return clip_stacked(gradients, losses, units, clip)


def by_loop(model: nn.Module, loss: Loss, batch: Any, units: Units, clip: Clip) -> Part:
    """One sample at a time: any architecture, one sample's activations and one unit's gradient in memory."""
    sums = {name: lengthened(torch.zeros_like(p)) for name, p in trainable(model).items()}
    norms: list[Tensor] = []
    factors: list[Tensor] = []
    losses: list[Tensor] = []
    weights, index = units.row_weights.tolist(), units.index.tolist()
    unit: dict[str, Tensor] = {}
    begin = 0
    with InHalves():
        for row, (gradients, value) in enumerate(loop_gradients(model, loss, batch)):
            losses.append(value)
            scaled = {name: g if weights[row] == 1 else g * weights[row] for name, g in gradients.items()}
            if unit:
                add_into(unit.values(), scaled.values())
            else:
                unit = scaled
            if row + 1 < len(index) and index[row + 1] == index[row]:
                continue
            mine = torch.stack(losses[begin:])
            one = Units(mine.new_zeros(len(mine), dtype=torch.int64), 1, len(mine) == 1)
            part = clip_stacked({name: g[None] for name, g in unit.items()}, mine, one, clip)
            begin = row + 1
            add_into(sums.values(), part.sums.values())
            norms.append(part.norms)
            factors.append(part.factors)
            unit = {}
    return Part(sums, torch.cat(norms), torch.cat(factors), torch.stack(losses))
