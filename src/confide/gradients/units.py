# SPDX-License-Identifier: Apache-2.0
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
"""Which row belongs to which privacy unit, and how clip groups turn norms into factors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor

from confide.errors import LossError
from confide.gradients.precision import lengthened
from confide.mechanisms.clipping import Clipping


@dataclass(frozen=True)
class Units:
    """Rows of a batch and their units.

    Attributes:
        index: (B,) int64, position of each row's unit among the U units, in ascending label order.
        count: U.
        distinct: Whether every row is its own unit, in order: then nothing has to be averaged.
        uneven: Whether units are to be taken to have different numbers of rows, even if they have not.
    """

    index: Tensor
    count: int
    distinct: bool
    uneven: bool = False

    @classmethod
    def of(cls, labels: Tensor | None, rows: int, device: torch.device) -> Units:
        """From labels (B,) of any integers, or None where each row is its own unit.

        Raises:
            LossError: If the labels do not fit the batch.
        """
        if labels is None:
            return cls(torch.arange(rows, device=device), rows, True)
        if labels.shape != (rows,) or labels.is_floating_point():
            raise LossError(
                f"units is {labels.dtype} of shape {tuple(labels.shape)}",
                remedy=f"Give one integer per row: ({rows},).",
            )
        found, index = labels.to(device).unique(return_inverse=True)
        distinct = len(found) == rows and bool((index == torch.arange(rows, device=device)).all())
        return cls(index, len(found), distinct)

    @cached_property
    def row_weights(self) -> Tensor:
        """(B,) float64: one over the number of rows of each row's unit. Weighted losses sum to unit means."""
        counts = torch.bincount(self.index, minlength=self.count)
        return (1.0 / counts.double())[self.index]

    @cached_property
    def rows_each(self) -> int:
        """How many rows every unit has, standing together; 0 where units differ."""
        if self.distinct:
            return 1
        if self.uneven:
            return 0
        counts = torch.bincount(self.index, minlength=self.count)
        return int(counts[0]) if bool((counts == counts[0]).all()) else 0

    def repeated(self, times: int) -> Units:
        """The units of rows that each stand for `times` rows, one behind the other."""
        distinct = self.distinct and times == 1
        return Units(self.index.repeat_interleave(times), self.count, distinct, self.uneven)

    def sizes(self) -> list[int]:
        """How many rows each unit has."""
        if self.distinct:
            return [1] * self.count
        return torch.bincount(self.index, minlength=self.count).tolist()

    def sum_rows(self, values: Tensor) -> Tensor:
        """Sum of each unit's rows: (B, ...) -> (U, ...)."""
        if self.distinct:
            return values
        values = lengthened(values)  # rows of bfloat16 are added in more than its eight bits
        out = values.new_zeros((self.count, *values.shape[1:]))
        return out.index_add_(0, self.index, values)

    def chunks(self, most: int) -> list[Tensor]:
        """Row numbers, cut between units into parts of at most `most` rows; a larger unit stays whole."""
        order = self.index.argsort(stable=True)
        sizes: list[int] = []
        for count in self.sizes():
            if sizes and sizes[-1] + count <= most:
                sizes[-1] += count
            else:
                sizes.append(count)
        return list(order.split(sizes))


class Clip:
    """From squared norms per parameter to a factor per parameter, and the record of what was found."""

    def __init__(self, clipping: Clipping, names: Sequence[str], device: torch.device) -> None:
        groups = clipping.groups(names)
        self._clipping = clipping
        self._count = max(groups) + 1
        self._groups = torch.tensor(groups, device=device) if self._count > 1 else None

    def __call__(self, squared: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Squared norms (U, P) float64 -> norms (U,), group factors (U, G), parameter factors (U, P)."""
        if self._groups is None:
            norms = squared.sum(1, keepdim=True).sqrt_()
            factors = self._clipping.factors(norms)
            return norms[:, 0], factors, factors.expand(-1, squared.shape[1])
        grouped = squared.new_zeros((len(squared), self._count)).index_add_(1, self._groups, squared)
        factors = self._clipping.factors(grouped.sqrt())
        return squared.sum(1).sqrt(), factors, factors[:, self._groups]


def refuse_non_finite(squared: Tensor, losses: Tensor, units: Units) -> None:
    """In place: a non-finite loss (B,) gives its unit a non-finite norm (U, P), even where no gradient
    flows."""
    squared[:, 0] += units.sum_rows(losses.double() * 0.0)  # zero, but for infinity and NaN


def squared_norms(values: Tensor) -> Tensor:
    """Squared L2 norm of each row (U, ...) -> (U,) in float64.

    Rows are first reduced in short stretches in their own dtype and then in float64: one long float32 sum
    loses digits, and a norm that is too small is a privacy error.
    """
    if values.dtype == torch.float64:
        return values.reshape(len(values), values.shape[1:].numel()).square().sum(1)
    pieces = [piece.double().square().sum(1) for piece in stretch_norms(values)]
    return pieces[0] if len(pieces) == 1 else pieces[0] + pieces[1]


def stretch_norms(values: Tensor, stretch: int = 512) -> list[Tensor]:
    """L2 norms of short stretches of each row (U, ...): (U, k) of all whole stretches, (U, 1) of what is
    left."""
    flat = values.reshape(len(values), values.shape[1:].numel())
    short = flat.dtype in (torch.float16, torch.bfloat16)
    norm = partial(torch.linalg.vector_norm, dim=-1, dtype=torch.float32 if short else flat.dtype)
    size = flat.shape[1]
    whole = size // stretch * stretch
    found: list[Tensor] = []
    if whole:
        found.append(norm(flat[:, :whole].reshape(len(flat), -1, stretch)))
    if whole < size or not size:
        found.append(norm(flat[:, whole:])[:, None])
    return found


def add_into(totals: Iterable[Tensor], parts: Iterable[Tensor]) -> None:
    """In place: totals += parts, tensor by tensor, in one call."""
    torch._foreach_add_(list(totals), list(parts))  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]


def without_rows(values: Tensor, rows: Tensor) -> Tensor:
    """In place where it can: zero the given rows (bad,) of values (U, ...). The same call for none and for
    many."""
    return values.contiguous().index_fill_(0, rows, 0.0)
