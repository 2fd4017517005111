# SPDX-License-Identifier: Apache-2.0
"""ε against a published table, closed forms in mpmath, and the bracket of two independent bounds."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import dp_accounting as dpa
import mpmath
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from confide.errors import PlanError
from confide.privacy import accountants
from confide.privacy.accountants import Accountant
from confide.privacy.schemes import FixedSizeSampling, FullBatch, PoissonSampling
from confide.privacy.units import Adjacency

ROWS = list(csv.DictReader((Path(__file__).parent / "accounting_reference.csv").read_text().splitlines()))
PLD, RDP, GDP = Accountant.PLD, Accountant.RDP, Accountant.GDP


def number(row: dict[str, str], column: str) -> float:
    return float(row[column]) if row[column] else math.nan


def of_row(row: dict[str, str]) -> tuple[float, float, int, float]:
    return number(row, "q"), number(row, "sigma"), int(row["steps"]), number(row, "delta")


# Of the eighteen solved rows, which resemble each other, six are in the quick set.
SLOW = {row["id"] for row in ROWS if row["id"].startswith("S0") and "B1024" not in row["id"]}


@pytest.mark.parametrize(
    "row", [pytest.param(r, id=r["id"], marks=[pytest.mark.slow] if r["id"] in SLOW else []) for r in ROWS]
)
def test_a_row_of_the_reference_table(row: dict[str, str]) -> None:
    q, sigma, steps, delta = of_row(row)
    pld, rdp, gdp = (
        accountants.epsilon(PoissonSampling(q), sigma, steps, delta, 10**6, named)
        for named in (PLD, RDP, GDP)
    )
    assert pld == pytest.approx(number(row, "eps_pld_dpa"), abs=5e-3)
    assert gdp == pytest.approx(number(row, "eps_gdp_clt"), abs=2e-3)
    # More orders than the table's: at most its value, and at least PLD's.
    assert pld <= rdp <= number(row, "eps_rdp_dpa") + 1e-3
    assert rdp == pytest.approx(number(row, "eps_rdp_dpa"), rel=5e-3)
    assert number(row, "eps_pld_lower_optimistic") - 1e-4 <= pld


@pytest.mark.parametrize(
    "row", [r for r in ROWS if r["n"] and r["eps_wor_rdp_replace_half_sigma"]], ids=lambda row: row["id"]
)
def test_fixed_size_sampling_counts_a_replacement_as_two_clip_norms(row: dict[str, str]) -> None:
    _, sigma, steps, delta = of_row(row)
    units, size = int(row["n"]), int(row["batch"])
    epsilon = accountants.epsilon(FixedSizeSampling(size, units), sigma, steps, delta, units, PLD)
    assert epsilon == pytest.approx(number(row, "eps_wor_rdp_replace_half_sigma"), rel=0.02)
    # The mistake of deepee, a sensitivity of C, would give at most this.
    assert epsilon > number(row, "eps_wor_rdp_naive_sigma")


def test_the_table_is_the_shared_one(reference: Path) -> None:
    here = (Path(__file__).parent / "accounting_reference.csv").read_text()
    assert here == (reference / "accounting_reference.csv").read_text()


def gaussian_delta(epsilon: float, mu: float) -> mpmath.mpf:
    """δ(ε) of μ-Gaussian DP, in 50 digits."""
    with mpmath.workdps(50):
        upper = mpmath.ncdf(-mpmath.mpf(epsilon) / mu + mpmath.mpf(mu) / 2)
        lower = mpmath.ncdf(-mpmath.mpf(epsilon) / mu - mpmath.mpf(mu) / 2)
        return upper - mpmath.exp(epsilon) * lower


@pytest.mark.parametrize(
    "sigma, steps, delta", [(1.0, 1, 1e-5), (0.5, 1, 1e-6), (20.0, 300, 1e-5), (5.0, 1, 1e-9)]
)
def test_full_batches_have_the_closed_form_of_a_gaussian(sigma: float, steps: int, delta: float) -> None:
    epsilon = accountants.epsilon(FullBatch(), sigma, steps, delta, 1000, PLD)
    mu = math.sqrt(steps) / sigma
    assert gaussian_delta(epsilon, mu) <= delta  # never below the truth
    assert gaussian_delta(epsilon - 2e-3, mu) > delta  # and close to it
    assert accountants.epsilon(FullBatch(), sigma, steps, delta, 1000, GDP) == pytest.approx(
        epsilon, abs=2e-3
    )


def subsampled_delta(epsilon: float, q: float, sigma: float) -> mpmath.mpf:
    """δ(ε) of one Poisson-subsampled Gaussian step: the larger of removal and addition, in closed form."""
    with mpmath.workdps(40):
        e, q_, s = mpmath.exp(epsilon), mpmath.mpf(q), mpmath.mpf(sigma)

        def tail(x: mpmath.mpf, mean: int) -> mpmath.mpf:
            return mpmath.ncdf((mean - x) / s)

        removal = s**2 * mpmath.log((e - 1 + q_) / q_) + mpmath.mpf(1) / 2
        removed = (1 - q_ - e) * tail(removal, 0) + q_ * tail(removal, 1)
        if 1 / e <= 1 - q_:  # an added unit never makes an outcome that much rarer
            return removed
        addition = s**2 * mpmath.log((1 / e - 1 + q_) / q_) + mpmath.mpf(1) / 2
        below = lambda mean: 1 - tail(addition, mean)  # noqa: E731
        return max(removed, below(0) - e * ((1 - q_) * below(0) + q_ * below(1)))


@pytest.mark.parametrize(
    "q, sigma, delta", [(0.1, 1.0, 1e-5), (0.01, 0.6, 1e-5), (0.5, 2.0, 1e-7), (0.003, 0.8, 1e-6)]
)
def test_one_sampled_step_has_the_closed_form_of_a_mixture(q: float, sigma: float, delta: float) -> None:
    epsilon = accountants.epsilon(PoissonSampling(q), sigma, 1, delta, 1000, PLD)
    assert subsampled_delta(epsilon, q, sigma) <= delta
    assert subsampled_delta(epsilon - 2e-3, q, sigma) > delta


@settings(max_examples=12, deadline=None)
@given(
    q=st.floats(1e-3, 0.5),
    sigma=st.floats(0.6, 8.0),
    steps=st.integers(1, 2000),
    exponent=st.floats(4.0, 9.0),
    more=st.floats(1.05, 3.0),
    which=st.sampled_from(["q", "sigma", "steps", "delta"]),
    named=st.sampled_from(list(Accountant)),
)
def test_epsilon_grows_with_steps_and_rate_and_falls_with_noise_and_delta(
    q: float, sigma: float, steps: int, exponent: float, more: float, which: str, named: Accountant
) -> None:
    delta = 10**-exponent

    def at(rate: float, noise: float, count: int, delta: float) -> float:
        return accountants.epsilon(PoissonSampling(min(1.0, rate)), noise, count, delta, 1000, named)

    worse = {
        "q": (q * more, sigma, steps, delta),
        "sigma": (q, sigma / more, steps, delta),
        "steps": (q, sigma, math.ceil(steps * more), delta),
        "delta": (q, sigma, steps, delta / more),
    }[which]
    assert 0 <= at(q, sigma, steps, delta) <= at(*worse)


@pytest.mark.parametrize(
    "q, sigma, steps, delta",
    [
        (1e-4, 50.0, 10**6, 1e-6),  # losses of a step far below the grid
        (1e-3, 1e4, 10**6, 1e-5),  # Rényi divergences below rounding: dp-accounting alone says ε = 0 here
        (1e-5, 1.0, 100, 1e-9),
        (0.01, 0.3, 10_000, 1e-5),  # ε of hundreds
        (0.5, 0.01, 1, 1e-5),  # ε of thousands
        (0.1, 1e-3, 10**6, 1e-5),  # ε beyond every grid
        (0.01, 1.0, 10_000, 1e-20),  # δ below PLD's truncation
        (0.1, 1e12, 10, 1e-5),
    ],
)
def test_extremes_stay_bounds(q: float, sigma: float, steps: int, delta: float) -> None:
    pld, rdp = (accountants.epsilon(PoissonSampling(q), sigma, steps, delta, 10**6, a) for a in (PLD, RDP))
    assert 0 <= pld <= rdp < math.inf
    # A hundredth of the steps as one Gaussian of signal q·√T/σ is a lower bound that shares no code.
    mu = q * math.sqrt(steps / 100) / sigma
    if pld < 100:
        assert gaussian_delta(pld, mu) <= delta


def test_renyi_divergences_lost_in_rounding_do_not_make_epsilon_zero() -> None:
    # 10⁹ steps of q/σ = 10⁻¹⁰ have μ ≈ 3·10⁻⁶, for which δ(0) = 10⁻⁶ > δ: ε is certainly positive. The
    # divergence of one step, 10⁻²⁰, comes out as zero or less at some orders.
    event = PoissonSampling(1e-5).event(1e5, 10**9)
    assert gaussian_delta(0.0, 3e-6) > 1e-7
    assert accountants.rdp_epsilon(event, 1e-7) > 0


def test_relations_do_not_mix_in_one_event() -> None:
    gaussian = dpa.GaussianDpEvent(2.0)
    fixed = FixedSizeSampling(10, 100).event(2.0, 5)
    assert accountants.adjacency_of(gaussian) is Adjacency.ADD_OR_REMOVE_ONE
    assert accountants.adjacency_of(fixed) is Adjacency.REPLACE_ONE
    with pytest.raises(PlanError, match="mixes"):
        accountants.rdp_epsilon(dpa.ComposedDpEvent([gaussian, fixed]), 1e-5)
    with pytest.raises(PlanError, match="no privacy-loss distribution"):
        accountants.pld_epsilon(fixed, 1e-5)


def test_heterogeneous_events_compose() -> None:
    first, second = PoissonSampling(0.01).event(1.0, 500), PoissonSampling(0.05).event(2.0, 300)
    together, by = accountants.compose([first, second], 1e-5)
    assert by is PLD
    alone = [accountants.compose([event], 1e-5)[0] for event in (first, second)]
    assert max(alone) < together < sum(alone)
    # Gaussians compose exactly: 1/σ² adds.
    exact, _ = accountants.compose([dpa.GaussianDpEvent(3.0), dpa.GaussianDpEvent(4.0)], 1e-5)
    mu = math.hypot(1 / 3, 1 / 4)
    assert gaussian_delta(exact, mu) <= 1e-5 < gaussian_delta(exact - 2e-3, mu)
    assert accountants.compose([], 1e-5) == (0.0, PLD)


def test_composing_both_relations_doubles_the_add_or_remove_part() -> None:
    added, replaced = PoissonSampling(0.01).event(2.0, 100), FixedSizeSampling(10, 1000).event(2.0, 100)
    mixed, by = accountants.compose([added, replaced], 1e-5)
    assert by is RDP
    parts = accountants.rdp_epsilon(added, 5e-6), accountants.rdp_epsilon(replaced, 5e-6)
    assert mixed > 2 * parts[0] + parts[1]


@pytest.mark.parametrize(
    "mean, shape, expected", [(10, math.inf, 2.68), (10, 1.0, 2.45), (30, 1.0, 2.78), (30, 0.0, 2.24)]
)
def test_selecting_the_best_of_random_many_trials(mean: float, shape: float, expected: float) -> None:
    # Figures of the reference, computed with other orders.
    trial = PoissonSampling(128 / 5216).event(4.0, 2038)
    study = accountants.select_best_epsilon(trial, 1e-5, mean, shape=shape)
    assert study == pytest.approx(expected, abs=0.02)
    assert study > accountants.rdp_epsilon(trial, 1e-5)


@pytest.mark.parametrize(
    "mean, shape", [(1.0, 1.0), (math.nan, 1.0), (math.inf, 1.0), (0.0, math.inf), (10, -0.5)]
)
def test_an_impossible_study_is_refused(mean: float, shape: float) -> None:
    with pytest.raises(PlanError):
        accountants.select_best_epsilon(dpa.GaussianDpEvent(1.0), 1e-5, mean, shape=shape)


def test_an_unknown_accountant_is_refused_with_the_nearest() -> None:
    with pytest.raises(PlanError, match="nearest is 'rdp'"):
        accountants.accountant_named("rpd")


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5, math.nan, math.inf])
def test_an_impossible_delta_is_refused(delta: float) -> None:
    with pytest.raises(PlanError, match="delta"):
        accountants.epsilon(PoissonSampling(0.1), 1.0, 10, delta, 100, PLD)
    with pytest.raises(PlanError, match="delta"):
        accountants.compose([dpa.GaussianDpEvent(1.0)], delta)


def test_gdp_is_refused_for_fixed_size_sampling() -> None:
    with pytest.raises(PlanError, match="2C"):
        accountants.epsilon(FixedSizeSampling(10, 100), 1.0, 10, 1e-5, 100, GDP)
