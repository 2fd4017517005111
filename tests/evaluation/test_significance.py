# SPDX-License-Identifier: Apache-2.0
"""Tests of differences, against scipy's permutation tests and sums of binomial terms in whole numbers."""

from __future__ import annotations

from fractions import Fraction
from math import comb

import numpy as np
import pytest
from scipy.stats import permutation_test

from confide.errors import DataError
from confide.evaluation.significance import holm, mcnemar, paired_repeats, unpaired_repeats


def mean_gap(a: np.ndarray, b: np.ndarray, axis: int = -1) -> np.ndarray:
    return np.mean(b, axis=axis) - np.mean(a, axis=axis)


def test_paired_equals_scipy() -> None:
    generator = np.random.default_rng()
    a, b = generator.normal(size=8), generator.normal(0.5, 1, size=8)
    found = paired_repeats(a, b)
    expected = permutation_test((a, b), mean_gap, permutation_type="samples", n_resamples=np.inf)
    assert found.p == pytest.approx(expected.pvalue, abs=1e-12)
    assert found.difference == pytest.approx(b.mean() - a.mean())


def test_unpaired_equals_scipy() -> None:
    generator = np.random.default_rng()
    a, b = generator.normal(size=5), generator.normal(0.8, 1, size=6)
    found = unpaired_repeats(a, b)
    # Two-sided as |difference|; scipy doubles the smaller tail, which differs for unequal sizes.
    every = np.concatenate([a, b])
    expected = permutation_test(
        (a, b),
        lambda x, y, axis=-1: np.abs(mean_gap(x, y, axis)),
        permutation_type="independent",
        n_resamples=np.inf,
        alternative="greater",
    )
    assert found.p == pytest.approx(expected.pvalue, abs=1e-12)
    assert len(every) == 11


def test_five_repeats_cannot_show_less_than_a_sixteenth() -> None:
    assert paired_repeats([1, 2, 3, 4, 5], [11, 12, 13, 14, 15]).p == 2 / 32


def test_no_difference_gives_one() -> None:
    assert paired_repeats([0.8, 0.9], [0.8, 0.9]).p == 1.0
    assert unpaired_repeats([0.8, 0.8], [0.8, 0.8]).p == 1.0


def test_many_repeats_are_drawn_and_agree_with_the_normal_law() -> None:
    """40 pairs, z about 2.5: p = 0.0124 by the normal law; 20,000 draws give a standard error of 8e-4. The
    bounds are 6 of them plus the law's own error; a false alarm is below 1e-6."""
    gaps = np.r_[np.full(28, 1.0), np.full(12, -1.0)]
    found = paired_repeats(np.zeros(40), gaps)
    exact = float(sum(Fraction(comb(40, k), 2**40) for k in range(41) if abs(2 * k - 40) >= 16))
    assert found.p == pytest.approx(exact, abs=6 * (exact / 20_000) ** 0.5)


def test_false_alarms_are_no_more_than_stated() -> None:
    """400 pairs of equal experiments at 5%: an exact test alarms at most 20 times on average; above 44 has
    probability < 1e-6."""
    generator = np.random.default_rng()
    alarms = sum(paired_repeats(*(generator.normal(size=7) for _ in range(2))).p <= 0.05 for _ in range(400))
    assert alarms <= 44


@pytest.mark.parametrize(("won", "lost"), [(0, 0), (3, 0), (10, 4), (5, 5), (1, 30)])
def test_mcnemar_in_whole_numbers(won: int, lost: int) -> None:
    first = np.r_[np.zeros(won), np.ones(lost), np.ones(50)].astype(bool)
    second = np.r_[np.ones(won), np.zeros(lost), np.ones(50)].astype(bool)
    found = mcnemar(first, second)
    n = won + lost
    tail = sum(comb(n, k) for k in range(n + 1) if comb(n, k) <= comb(n, won))
    assert found.p == pytest.approx(float(Fraction(tail, 2**n)))
    assert found.difference == pytest.approx((won - lost) / (n + 50))
    assert found.method == f"McNemar on {n} images that differ"


def test_holm_is_never_below_and_rejects_in_order() -> None:
    """Against its definition: rank k is rejected at level a iff all of rank j <= k have (m-j+1)p <= a."""
    values = np.random.default_rng().random(9) ** 3
    corrected = np.array(holm(values.tolist()))
    order = np.argsort(values)
    for level in np.linspace(0.001, 1, 200, endpoint=False):
        rejected = np.zeros(9, bool)
        for rank, place in enumerate(order):
            if (9 - rank) * values[place] > level:
                break
            rejected[place] = True
        assert ((corrected <= level + 1e-12) == rejected).all()
    assert holm([]) == []


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(DataError, match="cannot be paired"):
        paired_repeats([1.0], [2.0])
    with pytest.raises(DataError, match="cannot be paired"):
        paired_repeats([1.0, 2.0], [2.0])
    with pytest.raises(DataError, match="cannot be compared"):
        unpaired_repeats([1.0], [2.0])
    with pytest.raises(DataError, match="cannot be paired"):
        mcnemar(np.ones(3, bool), np.ones(4, bool))
