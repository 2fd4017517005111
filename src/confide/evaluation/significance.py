# SPDX-License-Identifier: Apache-2.0
"""Is one training better than another, or was it chance? Exact tests over repeats, and over one common test "
"set."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from confide.errors import DataError

# 2^16 sign patterns, or as many splits, are enumerated; beyond that they are drawn.
_EXACT = 1 << 16
_DRAWS = 20_000


@dataclass(frozen=True)
class Test:
    """A two-sided test of "no difference".

    Attributes:
        difference: Mean of the second minus mean of the first.
        p: Probability of a difference at least this large if there were none.
        method: How it was tested.
    """

    difference: float
    p: float
    method: str


def paired_repeats(first: Sequence[float], second: Sequence[float]) -> Test:
    """Sign-flip test over repeats that belong together (the same seed or split). Fisher (1935).

    With n repeats p is at least 2^(1-n): five repeats cannot show p < 0.06.

    Raises:
        DataError: If the lengths differ or there are fewer than two repeats.
    """
    if len(first) != len(second) or len(first) < 2:
        raise DataError(
            f"{len(first)} and {len(second)} repeats cannot be paired", remedy="Give two or more pairs."
        )
    gaps = np.asarray(second, dtype=np.float64) - np.asarray(first, dtype=np.float64)
    n = len(gaps)
    if 2**n <= _EXACT:
        signs = np.array(list(itertools.product((1, -1), repeat=n)), dtype=np.float64)
    else:
        drawn = np.random.default_rng(0).choice((1.0, -1.0), size=(_DRAWS, n))
        signs = np.vstack([np.ones(n), drawn])
    return Test(float(gaps.mean()), _share_as_large(signs @ gaps, gaps.sum()), f"sign flips over {n} pairs")


def unpaired_repeats(first: Sequence[float], second: Sequence[float]) -> Test:
    """Permutation test over repeats that do not belong together.

    Raises:
        DataError: If a side is empty, or both hold a single repeat.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if not len(a) or not len(b) or len(a) + len(b) < 3:
        raise DataError(f"{len(a)} and {len(b)} repeats cannot be compared", remedy="Repeat the training.")
    every = np.concatenate([a, b])
    splits = list(itertools.islice(itertools.combinations(range(len(every)), len(b)), _EXACT + 1))
    if len(splits) <= _EXACT:
        chosen = np.array(splits)
    else:
        generator = np.random.default_rng(0)
        rest = [generator.permutation(len(every))[: len(b)] for _ in range(_DRAWS)]
        chosen = np.array([np.arange(len(a), len(every)), *rest])
    # The mean of one side rises with its sum, so the sum of the second side orders the splits.
    centred = every - every.mean()
    found = _share_as_large(centred[chosen].sum(axis=1), centred[len(a) :].sum())
    return Test(float(b.mean() - a.mean()), found, f"permutations of {len(a)} and {len(b)} repeats")


def mcnemar(first_right: NDArray[np.bool_], second_right: NDArray[np.bool_]) -> Test:
    """Exact McNemar test: of the images on which two models differ, does one win more often? McNemar (1947).

    Args:
        first_right: (N,) whether the first model is right.
        second_right: (N,) whether the second model is right.

    Raises:
        DataError: If the shapes differ.
    """
    from scipy.stats import binomtest

    if first_right.shape != second_right.shape:
        raise DataError(f"{first_right.shape} and {second_right.shape} images cannot be paired")
    won, lost = int((second_right & ~first_right).sum()), int((first_right & ~second_right).sum())
    differing = won + lost
    p = float(binomtest(won, differing, 0.5).pvalue) if differing else 1.0
    gap = (won - lost) / max(1, len(first_right))
    return Test(gap, p, f"McNemar on {differing} images that differ")


def holm(values: Sequence[float]) -> list[float]:
    """p-values corrected for their number. Holm (1979).

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(values, kind="stable")
    corrected = np.empty(len(values))
    highest = 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (len(values) - rank) * values[place]))
        corrected[place] = highest
    return [float(round(value, 12)) for value in corrected]


def _share_as_large(outcomes: NDArray[np.float64], seen: float) -> float:
    """Share of outcomes at least as far from zero as the seen one; rounding does not break ties."""
    return float((np.abs(outcomes) >= abs(seen) - 1e-12 * (1 + abs(seen))).mean())
