# SPDX-License-Identifier: Apache-2.0
"""Images that are nearly the same on both sides of a split: a person met twice, or a file copied."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from confide.data.imageset import ImageSet

if TYPE_CHECKING:
    from confide.data.catalog import DataSplits

SIDE = 16
_BLOCK = 2048


@dataclass(frozen=True)
class Duplicates:
    """How many images of the second split have a near-duplicate in the first, and how many an exact one.

    Attributes:
        pairs: (n, 2) row numbers (first, second), the nearest of each.
    """

    first: str
    second: str
    exact: int
    pairs: NDArray[np.int64]

    def to_dict(self) -> dict[str, Any]:
        """Counts and row numbers."""
        return {
            "first": self.first,
            "second": self.second,
            "images": len(self.pairs),
            "exact": self.exact,
            "rows": self.pairs.tolist(),
        }


def signatures(images: NDArray[Any]) -> NDArray[np.float32]:
    """Images (N, C, ..., H, W) -> (N, 256): grey, area means on 16×16, mean taken off, length 1."""
    import torch
    import torch.nn.functional as F

    found: list[NDArray[np.float32]] = []
    for start in range(0, len(images), 512):
        pixels = torch.from_numpy(images[start : start + 512].astype(np.float32))
        grey = pixels.flatten(1, -3).mean(1, keepdim=True)
        small = F.adaptive_avg_pool2d(grey, SIDE).flatten(1)
        small = small - small.mean(1, keepdim=True)
        found.append(F.normalize(small, eps=1e-6).numpy())
    return np.concatenate(found) if found else np.zeros((0, SIDE * SIDE), np.float32)


def between(first: ImageSet, second: ImageSet, threshold: float = 0.998) -> Duplicates:
    """Images of `second` whose signature correlates with one of `first` by at least `threshold`."""
    ours, theirs = signatures(first.images), signatures(second.images)
    pairs: list[tuple[int, int]] = []
    for start in range(0, len(theirs), _BLOCK):
        alike = theirs[start : start + _BLOCK] @ ours.T
        nearest = alike.argmax(1)
        close = np.flatnonzero(alike[np.arange(len(nearest)), nearest] >= threshold)
        pairs += [(int(nearest[i]), int(start + i)) for i in close]
    exact = sum(np.array_equal(first.images[a], second.images[b]) for a, b in pairs)
    return Duplicates(first.split, second.split, exact, np.array(pairs, dtype=np.int64).reshape(-1, 2))


def across_splits(splits: DataSplits, threshold: float = 0.998) -> list[Duplicates]:
    """For train and validation, train and test, validation and test."""
    sets = (splits.train, splits.validation, splits.test)
    return [between(sets[a], sets[b], threshold) for a, b in ((0, 1), (0, 2), (1, 2))]
