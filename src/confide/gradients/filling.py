# SPDX-License-Identifier: Apache-2.0
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
"""Physical batches of one length, filled up with rows that count nothing.

*Formal guarantee.* Every pass has the same number of rows, whoever is in the batch; a single unit with more
rows than that has a pass of its own. Rows that fill up have a loss of weight zero, so their gradients are
zero.

Libraries choose other algorithms for another number of rows. What they then round otherwise moves the
gradients of all units of a batch when one joins it: by little in float32, by much more than the joining unit
may add in bfloat16 (`benchmarks.parts`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from confide.gradients.fallback import Part
from confide.gradients.parts import Run, in_parts
from confide.gradients.reference import Loss, check_losses
from confide.gradients.units import Clip, Units


def in_filled_parts(
    run: Run,
    model: nn.Module,
    loss: Loss,
    batch: Any,
    units: Units,
    clip: Clip,
    length: int,
    *,
    grouped: bool,
) -> tuple[Part, tuple[str, ...]]:
    """What `run` gives for a batch, `length` rows at a time, and why it was not faster.

    Args:
        grouped: Whether units may have several rows, even if these have one each.
    """

    def full(
        network: nn.Module, criterion: Loss, part: Any, owners: Units, clipped: Clip
    ) -> tuple[Part, tuple[str, ...]]:
        rows, missing = len(owners.index), max(0, length - len(owners.index))
        found, why = run(
            network,
            _weighted(criterion),
            _filled(part, rows, missing),
            with_blank(owners, missing, grouped=grouped),
            clipped,
        )
        real = owners.count
        return replace(
            found, norms=found.norms[:real], factors=found.factors[:real], losses=found.losses[:rows]
        ), why

    return in_parts(full, model, loss, batch, units, clip, length)


def _weighted(loss: Loss) -> Loss:
    """Of a batch and the weights of its rows (B,)."""

    def weighted(model: nn.Module, batch: tuple[Any, Tensor]) -> Tensor:
        weights = batch[1]
        return check_losses(loss(model, batch[0]), len(weights)) * weights  # a mean would pass otherwise

    return weighted


def _filled(batch: Any, rows: int, missing: int) -> tuple[Any, Tensor]:
    """A batch of rows (B, ...) with its first row repeated, and the weights 1 and 0 of what is in it.

    A row of the batch, because a loss may refuse zeros.
    """

    def longer(leaf: object) -> object:
        if not isinstance(leaf, Tensor) or not missing:
            return leaf
        return torch.cat([leaf, leaf[:1].expand(missing, *leaf.shape[1:])])

    device = next(leaf.device for leaf in tree_leaves(batch) if isinstance(leaf, Tensor))
    weights = torch.ones(rows + missing, device=device)
    weights[rows:] = 0.0
    return tree_map(longer, batch), weights


def with_blank(units: Units, missing: int, *, grouped: bool) -> Units:
    """The units with one more that owns the rows that fill up, or one for each.

    Which kernels suit them must not show who is there: grouped units are never taken for rows of their own,
    nor for units of equal length.
    """
    index = units.index
    if not grouped:
        extra = torch.arange(units.count, units.count + missing, device=index.device)
        return Units(torch.cat([index, extra]), units.count + missing, True)
    extra = index.new_full((missing,), units.count)
    return Units(torch.cat([index, extra]), units.count + (missing > 0), False, uneven=True)
