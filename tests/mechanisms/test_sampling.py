# SPDX-License-Identifier: Apache-2.0
"""Batches have exactly the distribution that the accountant is told. Fresh keys in every test."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import chi2

from confide.errors import PlanError
from confide.mechanisms.keys import RunKey
from confide.mechanisms.sampling import draw
from confide.privacy.schemes import FixedSizeSampling, FullBatch, PoissonSampling, Sampling

UNITS, RATE, STEPS = 200, 0.1, 4000
# Every bound in this module has a false-alarm rate of at most this.
ALARM = 1e-6


def inclusions(sampling: Sampling, steps: int = STEPS) -> np.ndarray:
    """Who was in which batch: (steps, units) of 0 and 1."""
    key = RunKey.from_os()
    table = np.zeros((steps, UNITS))
    for step in range(steps):
        table[step, draw(sampling, UNITS, key.stream("sampling", step=step))] = 1
    return table


@pytest.fixture(scope="module")
def poisson() -> np.ndarray:
    return inclusions(PoissonSampling(RATE))


@pytest.fixture(scope="module")
def fixed() -> np.ndarray:
    return inclusions(FixedSizeSampling(20, UNITS))


def within(statistic: float, freedom: int) -> bool:
    return chi2.ppf(ALARM / 2, freedom) < statistic < chi2.isf(ALARM / 2, freedom)


def test_each_unit_is_drawn_binomially_often(poisson: np.ndarray) -> None:
    counts = poisson.sum(0)
    assert within(float(((counts - STEPS * RATE) ** 2).sum() / (STEPS * RATE * (1 - RATE))), UNITS)


def test_the_batch_size_is_binomial(poisson: np.ndarray) -> None:
    sizes = poisson.sum(1)
    variance = UNITS * RATE * (1 - RATE)
    assert abs(sizes.mean() - UNITS * RATE) < 5 * math.sqrt(variance / STEPS)  # 6e-7
    # The sample variance of a binomial scatters nearly as a Gaussian's; excess kurtosis is 0.02 here.
    assert within(float(((sizes - UNITS * RATE) ** 2).sum() / variance), STEPS)


def pair_statistic(table: np.ndarray, other: np.ndarray, variance: float) -> np.ndarray:
    """Standardised covariances between units in `table` and units in `other`, (units, units)."""
    return (table - RATE).T @ (other - RATE) / math.sqrt(len(table)) / variance


def test_units_are_independent_of_each_other(poisson: np.ndarray) -> None:
    z = pair_statistic(poisson, poisson, RATE * (1 - RATE))[np.triu_indices(UNITS, 1)]
    # Two units meet in Poisson(40) batches; nine deviations are 91, 4e-12 a pair: 1e-7 for 19,900 pairs.
    assert np.abs(z).max() < 9
    assert abs((z**2).mean() - 1) < 5 * math.sqrt(2 / len(z)) * 1.5


def test_batches_are_independent_of_the_batches_before(poisson: np.ndarray) -> None:
    for lag in (1, 2, 7):
        z = pair_statistic(poisson[:-lag], poisson[lag:], RATE * (1 - RATE))
        assert np.abs(z).max() < 9
        assert abs((z**2).mean() - 1) < 5 * math.sqrt(2 / z.size) * 1.5


def test_a_fixed_size_is_fixed_and_every_subset_is_as_likely(fixed: np.ndarray) -> None:
    assert (fixed.sum(1) == 20).all()
    counts = fixed.sum(0)
    # Hypergeometric: variance T·q(1−q), covariance −T·q(1−q)/(n−1), so n − 1 degrees of freedom.
    statistic = float(
        ((counts - STEPS * RATE) ** 2).sum() / (STEPS * RATE * (1 - RATE)) * (UNITS - 1) / UNITS
    )
    assert within(statistic, UNITS - 1)
    z = pair_statistic(fixed, fixed, RATE * (1 - RATE))[np.triu_indices(UNITS, 1)]
    assert z.mean() == pytest.approx(-math.sqrt(STEPS) / (UNITS - 1), abs=1e-9)  # exact: sizes do not vary


def test_a_full_batch_is_everybody() -> None:
    stream = RunKey.from_os().stream("sampling", step=0)
    assert (draw(FullBatch(), 7, stream) == np.arange(7)).all()


def test_batches_are_sorted_indices_and_may_be_empty() -> None:
    key = RunKey.from_os()
    for step in range(50):
        batch = draw(PoissonSampling(0.3), 50, key.stream("sampling", step=step))
        assert batch.dtype == np.int64
        assert (np.diff(batch) > 0).all()
    assert len(draw(PoissonSampling(1e-12), 1000, key.stream("sampling", step=0))) == 0


def test_a_unit_more_changes_no_other_units_coin() -> None:
    key = RunKey.from_os()
    for step in range(20):
        small = draw(PoissonSampling(0.2), 99, key.stream("sampling", step=step))
        large = draw(PoissonSampling(0.2), 100, key.stream("sampling", step=step))
        assert (large[large < 99] == small).all()


def test_a_fixed_size_refuses_another_number_of_units() -> None:
    with pytest.raises(PlanError, match="101"):
        draw(FixedSizeSampling(10, 100), 101, RunKey.from_os().stream("sampling", step=0))


def test_an_unknown_scheme_is_refused() -> None:
    class Shuffled(FullBatch):
        pass

    class Strange:
        pass

    assert len(draw(Shuffled(), 3, RunKey.from_os().stream("sampling", step=0))) == 3
    with pytest.raises(PlanError, match="Strange"):
        draw(Strange(), 3, RunKey.from_os().stream("sampling", step=0))  # type: ignore[arg-type]
