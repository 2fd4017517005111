# SPDX-License-Identifier: Apache-2.0
"""Batches made by other processes, for sets whose reading is slower than a training step.

What confide caches is read at the speed of memory, and its own loop needs no such help. This is for slow
disks and for a `Dataset` of one's own: batches may have any size, also none, which Poisson sampling makes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from confide.data.imageset import ImageSet

Batch = tuple[torch.Tensor, torch.Tensor]


class _Rows(Dataset[Any]):
    """An image set as torch's loader asks for it: all rows of a batch at once."""

    def __init__(self, images: ImageSet) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, rows: list[int]) -> Batch:
        return self.images.batch(np.asarray(rows, dtype=np.int64))


def _as_it_is(batch: Any) -> Any:
    return batch


def batches(
    images: ImageSet, rows: Iterable[NDArray[np.int64]], *, workers: int = 2, ahead: int = 2
) -> Iterator[Batch]:
    """Normalised batches (`ImageSet.batch`) of the given rows, in their order.

    Args:
        rows: The row numbers of each batch; an empty one gives an empty batch, and is not left out.
        workers: Processes; 0 makes the batches here.
        ahead: Batches that each process prepares in advance.
    """
    loader: DataLoader[Any] = DataLoader(
        _Rows(images),
        batch_sampler=[part.tolist() for part in rows],
        num_workers=workers,
        prefetch_factor=ahead if workers else None,
        collate_fn=_as_it_is,
    )
    yield from loader
