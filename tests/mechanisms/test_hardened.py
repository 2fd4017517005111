# SPDX-License-Identifier: Apache-2.0
"""Integers in, integers out: an exact bound, and the exact discrete Gaussian. Fresh keys in every test."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from confide.errors import PlanError
from confide.mechanisms.hardened import IntegerGrid, discrete_gaussian
from confide.mechanisms.keys import RunKey


def draws(std: int, count: int) -> np.ndarray:
    return discrete_gaussian(RunKey.from_os().stream("noise", step=0), std, count)


def probabilities(std: int) -> tuple[np.ndarray, np.ndarray]:
    k = np.arange(-12 * std - 1, 12 * std + 2)
    weights = np.exp(-(k**2) / (2.0 * std**2))
    return k, weights / weights.sum()


@pytest.mark.parametrize("std", [1, 2, 8])
def test_small_parameters_have_the_stated_probabilities(std: int) -> None:
    count = 400_000
    z = draws(std, count)
    k, p = probabilities(std)
    common = p * count > 20
    seen = np.array([(z == value).sum() for value in k[common]])
    rest = count - seen.sum()
    expected = p[common] * count
    statistic = ((seen - expected) ** 2 / expected).sum()
    others = count - expected.sum()
    statistic += (rest - others) ** 2 / others
    assert statistic < stats.chi2.isf(1e-6, common.sum())  # false alarm 1e-6


def test_the_sampler_agrees_with_opendp() -> None:
    dp = pytest.importorskip("opendp.prelude")
    dp.enable_features("contrib")
    space = dp.vector_domain(dp.atom_domain(T="i64")), dp.l2_distance(T="f64")
    theirs = dp.m.make_gaussian(*space, scale=64.0)([0] * 30_000)
    # Two-sample Kolmogorov-Smirnov on values with many ties is conservative: false alarm below 1e-6.
    assert stats.ks_2samp(draws(64, 30_000), theirs).pvalue > 1e-6


def test_the_full_grid_is_a_gaussian_to_the_eye() -> None:
    count = 200_000
    z = draws(2**24, count) / 2.0**24
    error = 1 / math.sqrt(count)
    assert abs(z.mean()) < 5 * error  # each 6e-7
    assert abs(z.var() - 1) < 5 * math.sqrt(2) * error
    assert stats.kstest(z, "norm").pvalue > 1e-6
    assert abs(np.corrcoef(z[:-1], z[1:])[0, 1]) < 5 * error
    low = (draws(2**24, 40_000) & 7).astype(int)  # the last bits are uniform: 7 degrees above 45, 1.4e-7
    assert ((np.bincount(low, minlength=8) - 5000) ** 2 / 5000).sum() < 45


def test_draws_are_a_function_of_the_stream() -> None:
    key = RunKey.from_os()
    a, b, c = (discrete_gaussian(key.stream("noise", step=step), 2**24, 1000) for step in (0, 0, 1))
    assert (a == b).all()
    assert (a != c).mean() > 0.9
    assert len(discrete_gaussian(key.stream("noise", step=0), 4, 0)) == 0


@settings(max_examples=40, deadline=None)
@given(
    multiplier=st.floats(0.05, 50.0),
    clip_norm=st.floats(1e-3, 1e3),
    scale=st.floats(1e-20, 1e20),
    width=st.integers(1, 300),
)
def test_integer_vectors_never_exceed_the_bound(
    multiplier: float, clip_norm: float, scale: float, width: int
) -> None:
    grid = IntegerGrid(multiplier, clip_norm)
    integers = grid.clip(torch.randn(4, width) * scale)
    assert integers.dtype == torch.int64
    for row in integers.tolist():
        assert sum(value * value for value in row) <= grid.bound_squared  # in Python's unbounded integers
    # The bound is C/γ, where noise of s steps is z·C: the noise multiplier is at least z.
    assert grid.steps_per_std / math.sqrt(grid.bound_squared) >= multiplier
    assert grid.spacing * grid.steps_per_std == pytest.approx(multiplier * clip_norm)


def test_clipping_on_the_grid_is_clipping() -> None:
    grid = IntegerGrid(1.0, 2.0)
    gradients = torch.tensor([[0.3, -0.4], [30.0, -40.0], [0.0, 0.0]], dtype=torch.float64)
    back = grid.to_real(grid.clip(gradients))
    expected = torch.tensor([[0.3, -0.4], [1.2, -1.6], [0.0, 0.0]]).double()
    torch.testing.assert_close(back, expected, rtol=1e-6, atol=2 * grid.spacing)
    assert (back.abs() <= expected.abs()).all()  # towards zero


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_unit_with_a_bad_gradient_contributes_zero(bad: float) -> None:
    gradients = torch.ones(3, 5)
    gradients[1, 2] = bad
    integers = IntegerGrid(1.0, 1.0).clip(gradients)
    assert (integers[1] == 0).all()
    assert (integers[[0, 2]] != 0).all()


def test_every_released_number_is_an_integer_and_the_lattice_is_the_same_for_neighbours() -> None:
    grid = IntegerGrid(1.0, 1.0)
    key = RunKey.from_os()
    integers = grid.clip(torch.randn(10, 50))
    with_all, without = (grid.noisy_sum(i, key.stream("noise", step=0)) for i in (integers, integers[1:]))
    assert with_all.dtype == torch.int64
    assert torch.equal(with_all - without, integers[0])
    assert grid.noisy_sum(integers[:0], key.stream("noise", step=0)).shape == (
        50,
    )  # an empty batch: noise only


@pytest.mark.parametrize(
    "options",
    [
        (0.0, 1.0),
        (1.0, 0.0),
        (math.nan, 1.0),
        (1.0, math.inf),
        (1e-3, 1.0),
        (1e9, 1.0),
        (1.0, 1.0, 3),
        (1.0, 1.0, 2**25),
    ],
)
def test_an_impossible_grid_is_refused(options: tuple[float, ...]) -> None:
    with pytest.raises(PlanError):
        IntegerGrid(*options)  # type: ignore[arg-type]
