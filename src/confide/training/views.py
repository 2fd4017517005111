# SPDX-License-Identifier: Apache-2.0
"""Random numbers that belong to a row and a view, whatever else is in the batch.

Record/replay needs it: with one unit removed, every other unit must see the very same views. A generator that
is consumed row after row would shift them all. So each number is a hash of (step's seed, row, view, draw).
These numbers need no secrecy: privacy rests on the sampling and the noise, which come from the run's key.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser (Steele et al. 2014): a bijection of 64 bits that avalanches."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def uniforms(seed: int, rows: NDArray[np.int64], views: int, draws: int) -> NDArray[np.float64]:
    """Numbers in [0, 1) of shape (len(rows), views, draws); each row's depend on its number only."""
    start = _mix(rows.astype(np.uint64) * _GOLDEN + np.uint64(seed & 0xFFFFFFFFFFFFFFFF))
    counter = np.arange(1, views * draws + 1, dtype=np.uint64) * _GOLDEN
    bits = _mix(_mix(start[:, None] + counter[None, :]))
    return (bits >> np.uint64(11)).astype(np.float64).reshape(len(rows), views, draws) * 2.0**-53


def keep_per_unit(
    seed: int, rows: NDArray[np.int64], owner: NDArray[np.int64], most: int
) -> NDArray[np.bool_]:
    """Mask of at most `most` random rows of each unit; a unit's choice depends on its own rows only."""
    score = uniforms(seed, rows, 1, 1)[:, 0, 0]
    order = np.lexsort((score, owner))
    starts = np.searchsorted(owner[order], owner[order], side="left")
    keep = np.zeros(len(rows), dtype=np.bool_)
    keep[order] = np.arange(len(rows)) - starts < most
    return keep
