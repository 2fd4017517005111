# SPDX-License-Identifier: Apache-2.0
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""What a training step needs from a data set: the rows of some privacy units, as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map
from torch.utils.data import Dataset, TensorDataset, default_collate

from confide.data.imageset import ImageSet, Rows, UnitRows
from confide.errors import DataError


class Examples(Protocol):
    """Rows grouped by privacy unit."""

    @property
    def n_units(self) -> int:
        """Number of privacy units present. Secret under add-or-remove-one: only the sampler may see it."""
        ...

    def rows_of(self, units: Rows) -> tuple[Rows, Rows]:
        """The rows of these units, and for each row the position of its unit in `units`."""
        ...

    def batch(self, rows: Rows) -> Any:
        """The rows as a pytree of tensors with leading dimension `len(rows)`; also for no rows at all."""
        ...


@dataclass(frozen=True)
class TorchExamples:
    """A map-style torch data set whose items are tuples of tensors or numbers."""

    dataset: Dataset[Any]
    grouping: UnitRows
    empty: Any = field(repr=False)

    @property
    def n_units(self) -> int:
        """Number of privacy units."""
        return self.grouping.n_units

    def rows_of(self, units: Rows) -> tuple[Rows, Rows]:
        """The rows of these units, and for each row the position of its unit in `units`."""
        return self.grouping.rows_of(units)

    def batch(self, rows: Rows) -> Any:
        """Collate the rows; a `TensorDataset` is indexed at once."""
        if len(rows) == 0:
            return self.empty
        if isinstance(self.dataset, TensorDataset):
            chosen = torch.from_numpy(rows)
            return tuple(tensor[chosen] for tensor in self.dataset.tensors)
        return default_collate([self.dataset[int(row)] for row in rows])


def as_examples(
    data: ImageSet | Dataset[Any] | Sequence[Tensor] | Examples, units: Sequence[int] | Rows | None = None
) -> Examples:
    """View any supported data set as examples.

    Args:
        data: An `ImageSet`, a map-style torch data set, a tuple of tensors with equal leading dimension, or
            anything that has the three members of `Examples`.
        units: The unit number 0..U-1 of each row; default: every row is its own unit. An `ImageSet`
            brings its own.

    Raises:
        DataError: If the data set is empty, or `units` does not fit it.
    """
    if isinstance(data, ImageSet):
        if units is not None:
            raise DataError("an ImageSet brings its own units", remedy="Load it with the unit that you want.")
        return data
    if isinstance(data, list | tuple):
        data = TensorDataset(*cast("Sequence[Tensor]", data))
    if not isinstance(data, Dataset):
        return cast("Examples", data)
    length = len(data)  # pyright: ignore[reportArgumentType]
    if length == 0:
        raise DataError("the data set has no rows")
    index = np.arange(length) if units is None else np.asarray(units)
    if len(index) != length:
        raise DataError(f"{len(index)} unit numbers for {length} rows", remedy="Give one integer per row.")
    # The shapes of an empty batch come from one row; its content is not kept.
    first = default_collate([data[0]])
    return TorchExamples(data, UnitRows.of(index), tree_map(_none_of, first))


def _none_of(leaf: Any) -> Any:
    return leaf[:0].clone() if isinstance(leaf, Tensor) else leaf
