# SPDX-License-Identifier: Apache-2.0
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""From the units of a logical batch to the physical batches that fit in memory, views included.

Nothing here decides who is in a batch; cutting it differently changes time and memory, never the sums.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._pytree import tree_map

from confide.data.augment import Augmentation
from confide.errors import InputError
from confide.training.examples import Examples
from confide.training.views import keep_per_unit, uniforms

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Work:
    """How a step computes its clipped sums; changes time and memory, never the result.

    Attributes:
        physical_batch_size: Rows in memory at once, views included; a unit with more rows stays whole.
        fill: Fill every physical batch up to that size, with rows that count nothing. Needed where the model
            computes in less than float32; see `confide.gradients.filling`.
        method: How gradients are clipped; see `confide.clipped_gradient`.
        max_rows_per_unit: At most so many random rows of a unit enter a step. (This one does change the
            result; it bounds the work that a unit with many rows makes.)
        noise_ahead: Draw a step's noise in a thread beside its gradient; default: where a core is free,
            because a GPU trains or torch uses fewer threads than there are. The noise is the same.
    """

    physical_batch_size: int = 256
    method: str = "auto"
    max_rows_per_unit: int | None = None
    noise_ahead: bool | None = None
    fill: bool = False

    def __post_init__(self) -> None:
        if self.physical_batch_size < 1:
            raise InputError(f"physical batch size {self.physical_batch_size} is below 1")
        if self.max_rows_per_unit is not None and self.max_rows_per_unit < 1:
            raise InputError(f"at most {self.max_rows_per_unit} rows of a unit would leave it none")

    def draws_ahead(self, device: torch.device) -> bool:
        """Whether noise is drawn in a thread, for a model on this device."""
        if self.noise_ahead is not None:
            return self.noise_ahead
        return device.type != "cpu" or torch.get_num_threads() < _cores()


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class PhysicalBatches:
    """Cuts logical batches.

    Attributes:
        examples: The rows and their units.
        views: Augmentation multiplicity K.
        augmentation: Makes a random view.
        work: Sizes.
        single: One unit at a time, so that no number computed for a unit can depend on another.
    """

    examples: Examples
    views: int
    augmentation: Augmentation | None
    work: Work
    single: bool = False

    def of(self, chosen: Rows, seed: int, device: torch.device) -> Iterator[tuple[Any, Tensor]]:
        """The batches of some units: a pytree of tensors (B, ...) and the unit's label of each row (B,).

        Args:
            chosen: Unit numbers, ascending.
            seed: Of the step's views.
            device: Where the tensors go.
        """
        for rows, owner in self.cut(chosen, seed):
            batch = views_of(self.examples, rows, self.views, self.augmentation, seed)
            labels = torch.from_numpy(np.repeat(owner, self.views if self.augmentation else 1))
            yield to_device(batch, device), labels.to(device)

    def cut(self, chosen: Rows, seed: int) -> Iterator[tuple[Rows, Rows]]:
        """Rows and the position of each row's unit, cut between units to about the physical size."""
        rows, owner = self.examples.rows_of(chosen)
        if self.work.max_rows_per_unit is not None:
            keep = keep_per_unit(seed ^ 0x726F7773, rows, chosen[owner], self.work.max_rows_per_unit)
            rows, owner = rows[keep], owner[keep]
        most = 1 if self.single else max(1, self.work.physical_batch_size // self.views)
        # Where each unit begins, and the end of the last.
        borders = np.append(np.searchsorted(owner, np.arange(len(chosen))), len(rows))
        unit = 0
        while unit < len(chosen):
            fits = int(np.searchsorted(borders, borders[unit] + most, side="right")) - 1
            after = max(unit + 1, fits)
            part = slice(int(borders[unit]), int(borders[after]))
            yield rows[part], owner[part]
            unit = after


def views_of(examples: Examples, rows: Rows, views: int, augmentation: Augmentation | None, seed: int) -> Any:
    """The rows' batch, each row repeated as K random views.

    A row's views depend on its number and the seed only.
    """
    batch = examples.batch(rows)
    if augmentation is None:
        return batch
    if not (isinstance(batch, tuple | list) and len(batch) == 2):
        raise InputError("augmentation needs a batch of (images, targets)")
    images, targets = (tensor.repeat_interleave(views, 0) for tensor in batch)
    numbers = uniforms(seed, rows, views, augmentation.draws).reshape(len(images), -1)
    return augmentation(images, targets, torch.from_numpy(numbers))


def to_device(batch: Any, device: torch.device) -> Any:
    """The batch with its tensors on a device."""

    def moved(leaf: Any) -> Any:
        return leaf.to(device, non_blocking=True) if isinstance(leaf, Tensor) else leaf

    return tree_map(moved, batch)


def unit_means(losses: Tensor, labels: Tensor) -> Tensor:
    """Mean loss of each unit: losses (B,), labels (B,) ascending; returns (U,) in float64."""
    _, position = labels.unique_consecutive(return_inverse=True)
    counts = torch.bincount(position)
    total = torch.zeros(len(counts), dtype=torch.float64, device=losses.device)
    return total.index_add_(0, position, losses.detach().double()) / counts
