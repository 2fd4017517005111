# SPDX-License-Identifier: Apache-2.0
"""Trade-off curves against mpmath, against direct numerical integration, and against the accountant."""

from __future__ import annotations

import math
from dataclasses import replace

import mpmath
import numpy as np
import pytest

from confide.audit.tradeoff import GaussianCurve, PlanCurves, ProfileCurve, gaussian_mu, plan_curve
from confide.errors import PlanError
from confide.privacy.plan import PrivacyPlan
from confide.privacy.schemes import FixedSizeSampling, FullBatch

POISSON = PrivacyPlan(1.0, 0.1, 20, 1e-5, 1000)


def _delta(mu: float, epsilon: float) -> float:
    """δ(ε) of N(0,1) against N(μ,1), in 40 digits."""
    with mpmath.workdps(40):
        first = mpmath.ncdf(mpmath.mpf(mu) / 2 - mpmath.mpf(epsilon) / mu)
        return float(
            first - mpmath.exp(epsilon) * mpmath.ncdf(-mpmath.mpf(mu) / 2 - mpmath.mpf(epsilon) / mu)
        )


@pytest.mark.parametrize("epsilon", [0.05, 1.0, 4.3772, 20.0])
@pytest.mark.parametrize("delta", [1e-9, 1e-5, 1e-2])
def test_gaussian_mu_is_exactly_at_the_claim_and_never_below(epsilon: float, delta: float) -> None:
    mu = gaussian_mu(epsilon, delta)
    assert delta <= _delta(mu, epsilon) <= delta * (1 + 1e-4)


def test_gaussian_mu_of_the_anchor() -> None:
    # ε = 4.3772 at δ = 1e-5 is the Gaussian mechanism with σ = 1 (accounting reference).
    assert gaussian_mu(4.37718, 1e-5) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("x", [1e-6, 0.01, 0.3, 0.5, 0.9, 0.9999])
def test_gaussian_curve(x: float) -> None:
    with mpmath.workdps(30):
        quantile = mpmath.sqrt(2) * mpmath.erfinv(2 * mpmath.mpf(x) - 1)
        wanted = float(mpmath.ncdf(quantile - mpmath.mpf("1.3")))
    assert GaussianCurve(1.3).least(x) == pytest.approx(wanted, rel=1e-8)


def test_a_profile_gives_back_the_gaussian_curve_from_below() -> None:
    epsilons = np.linspace(0, 12, 600)
    profile = ProfileCurve.of(epsilons, np.array([_delta(1.0, e) for e in epsilons.tolist()]))
    exact = GaussianCurve(1.0)
    for x in np.concatenate([np.geomspace(1e-5, 0.5, 40), 1 - np.geomspace(1e-5, 0.5, 40)]).tolist():
        assert profile.least(x) <= exact.least(x) + 1e-9
        assert profile.least(x) == pytest.approx(exact.least(x), rel=1e-3, abs=1e-6)


def test_the_envelope_is_the_highest_line() -> None:
    generator = np.random.default_rng()
    epsilons = np.sort(generator.uniform(0, 6, 25))
    deltas = np.sort(generator.uniform(0, 0.4, 25))[::-1].copy()
    curve = ProfileCurve.of(epsilons, deltas)
    for x in generator.uniform(0, 1, 200).tolist():
        plain = [math.exp(-e) * (x - d) for e, d in zip(epsilons, deltas, strict=True)]
        plain += [1 - d - math.exp(e) * (1 - x) for e, d in zip(epsilons, deltas, strict=True)]
        assert curve.least(x) == pytest.approx(max(0.0, *plain), abs=1e-12)


def _one_step_least(rate: float, sigma: float, x: float) -> float:
    """b(x) of one subsampled Gaussian, by Neyman–Pearson tests on a grid of half-lines, both directions.

    The likelihood ratio is monotone in the observation, so optimal events are half-lines.
    """
    from scipy.stats import norm

    cut = np.linspace(-12, 12, 200_001)
    out_above = norm.sf(cut / sigma)
    in_above = (1 - rate) * out_above + rate * norm.sf((cut - 1) / sigma)
    found = []
    for first, second in ((out_above, in_above), (in_above, out_above)):
        for events, under in ((first, second), (1 - first, 1 - second)):
            order = np.argsort(events)
            found.append(float(np.interp(x, events[order], under[order])))
    return min(found)


@pytest.mark.parametrize("x", [0.01, 0.1, 0.5, 0.9, 0.99])
def test_the_curve_of_a_plan_against_neyman_pearson(x: float) -> None:
    plan = PrivacyPlan(1.0, 0.2, 1, 1e-5, 1000)
    exact = _one_step_least(0.2, 1.0, x)
    assert plan_curve(plan).least(x) <= exact + 1e-6
    # The curve takes the larger δ of both directions, so it may lie a little lower.
    assert plan_curve(plan).least(x) >= exact - 0.02


def test_the_curve_of_a_plan_agrees_with_its_epsilon() -> None:
    epsilon, delta = POISSON.epsilon(), POISSON.delta
    # (ε, δ)-DP says b(x) ≥ e^(-ε)·(x − δ); the curve holds that at the claim, up to its grid.
    for x in (0.2, 0.6, 1.0):
        assert plan_curve(POISSON).least(x) >= math.exp(-epsilon) * (x - delta) * (1 - 0.05)


def test_full_batches_are_exactly_gaussian() -> None:
    plan = PrivacyPlan(4.0, 1.0, 16, 1e-5, 1000, sampling=FullBatch())
    assert plan_curve(plan) == GaussianCurve(1.0)


def test_levels_change_the_noise_by_eighths_of_an_octave() -> None:
    family = PlanCurves(POISSON)
    assert family.at(0).noise_multiplier == 1.0
    assert family.at(-8).noise_multiplier == 0.5
    assert family.curve(-8).least(0.5) < family.curve(0).least(0.5) < family.curve(8).least(0.5)


def test_fixed_size_sampling_has_no_curve() -> None:
    plan = replace(POISSON, sampling_rate=0.1, sampling=FixedSizeSampling(100, 1000))
    with pytest.raises(PlanError, match="no known privacy profile"):
        PlanCurves(plan)
    with pytest.raises(PlanError, match="no known privacy profile"):
        plan_curve(plan)
