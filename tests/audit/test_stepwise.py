# SPDX-License-Identifier: Apache-2.0
"""The step audit: the reference's table, real mechanisms of every kind, and broken ones."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import beta, norm
from tests.audit import bugs

from confide.audit.stepwise import (
    StepCounts,
    clopper_pearson_lower,
    clopper_pearson_upper,
    mechanism_for_audit,
    sampling_epsilon,
    step_audit,
)
from confide.errors import InputError
from confide.mechanisms.clipping import (
    AdaptiveClipping,
    AutomaticClipping,
    Clipping,
    FlatClipping,
    PerLayerClipping,
)
from confide.privacy.plan import PrivacyPlan
from confide.privacy.schemes import FixedSizeSampling, FullBatch
from confide.training.mechanism import with_releases

PNEUMONIA = PrivacyPlan(1.0, 128 / 5216, 2038, 1e-5, 5216)


@pytest.mark.parametrize(
    ("sigma", "claim", "few", "many"), [(1, 7.17, 5.71, 7.02), (2, 2.46, 1.79, 2.39), (4, 1.07, 0.55, 1.02)]
)
def test_the_reference_table(sigma: float, claim: float, few: float, many: float) -> None:
    # Expected counts of N present and N absent canaries. The reference states two digits; ours for σ = 4
    # and many observations is 1.012, theirs 1.02.
    plan = replace(PNEUMONIA, noise_multiplier=float(sigma))
    error = norm.cdf(-0.5 / sigma)
    for n, wanted in ((2038, few), (203_800, many)):
        count = round(error * n)
        assert StepCounts(count, n, count, n).epsilon(plan) == pytest.approx(wanted, abs=1e-2)
    assert plan.epsilon() == pytest.approx(claim, abs=1e-2)


def test_clopper_pearson_by_its_definition() -> None:
    from scipy.stats import binom

    for k, n in ((0, 10), (3, 10), (999, 1000)):
        upper = clopper_pearson_upper(k, n, 0.025)
        assert float(binom.cdf(k, n, upper)) == pytest.approx(0.025, rel=1e-9)
    assert clopper_pearson_upper(10, 10, 0.025) == 1.0
    assert clopper_pearson_lower(0, 10, 0.025) == 0.0
    assert clopper_pearson_lower(7, 10, 0.025) == pytest.approx(float(beta.ppf(0.025, 7, 4)))
    with pytest.raises(InputError, match="11 of 10"):
        clopper_pearson_upper(11, 10, 0.025)


def test_sigma_is_covered() -> None:
    # 200 simulated audits at confidence 0.9: σ_eff below the truth in at most 10%. Both error rates have to
    # err at once, so it is below 2% in fact; more than 30 of 200 have a probability below 1e-3 even at 10%.
    generator = np.random.default_rng()
    missed = 0
    for _ in range(200):
        error = norm.cdf(-0.5 / 2.0)
        alarms, misses = generator.binomial(1000, error, size=2)
        missed += StepCounts(int(alarms), 1000, int(misses), 1000).noise_multiplier(0.9) < 2.0
    assert missed <= 30


def test_nothing_seen_is_nothing_claimed() -> None:
    counts = StepCounts(500, 1000, 500, 1000)
    assert counts.mu() == 0 and counts.noise_multiplier() == math.inf and counts.epsilon(PNEUMONIA) == 0


def _share(clipping: Clipping) -> float:
    """A canary's length over the sensitivity; the canaries' layer has half of the squared bound."""
    return math.sqrt(0.5) if isinstance(clipping, PerLayerClipping) else 1.0


def _loosest(sigma: float, each: int, share: float) -> float:
    """σ_eff at confidence 0.999 from `each` present and absent canaries, 4 deviations up (delta method)."""
    quantile = share / sigma / 2
    deviation = math.sqrt(norm.cdf(-quantile) * norm.sf(-quantile) / each) / norm.pdf(quantile)
    seen = share / sigma - (2 * norm.isf(0.0005) + 4 * math.sqrt(2)) * 1.05 * deviation
    return share / seen


ADAPTIVE = AdaptiveClipping(0.7)
LAYERS = PerLayerClipping((("conv", 0.5), ("head", 0.2)))


@pytest.mark.parametrize(
    "clipping", [FlatClipping(0.7), AutomaticClipping(0.7), ADAPTIVE, LAYERS], ids=lambda c: type(c).__name__
)
@pytest.mark.parametrize("sigma", [0.5, 2.0])
def test_the_real_mechanism_has_the_noise_that_it_claims(clipping: Clipping, sigma: float) -> None:
    plan = with_releases(PrivacyPlan(sigma, 0.1, 40, 1e-5, 1000), clipping, loss=True)
    counts = step_audit(mechanism_for_audit(plan, clipping, 1000), steps=40, directions=1000)
    truth = plan.gradient_noise_multiplier
    # Below the truth in one audit of a thousand at most; above `_loosest` in one of ten thousand.
    assert truth <= counts.noise_multiplier(0.999) <= _loosest(truth, 20_000, _share(clipping))
    assert counts.present + counts.absent == 40_000


def test_the_hardened_mechanism_has_the_noise_that_it_claims() -> None:
    plan = PrivacyPlan(1.0, 0.1, 20, 1e-5, 1000, integers=1)
    counts = step_audit(mechanism_for_audit(plan, FlatClipping(0.7), 100), steps=20, directions=100)
    assert 1.0 <= counts.noise_multiplier(0.999) <= _loosest(1.0, 1000, 1.0)


@pytest.mark.parametrize("factor", [1.25, 2.0, 64.0])
def test_less_noise_is_found(monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    plan = PrivacyPlan(2.0, 0.1, 40, 1e-5, 1000)
    bugs.less_noise(factor)(monkeypatch)
    counts = step_audit(mechanism_for_audit(plan, FlatClipping(0.7), 2000), steps=50, directions=2000)
    assert counts.noise_multiplier(0.999) < plan.noise_multiplier
    assert counts.epsilon(plan, 0.999) > plan.epsilon()


def test_too_much_of_a_gradient_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = PrivacyPlan(2.0, 0.1, 40, 1e-5, 1000)
    bugs.unclipped(monkeypatch)
    counts = step_audit(mechanism_for_audit(plan, FlatClipping(0.7), 2000), steps=20, directions=2000)
    assert counts.epsilon(plan, 0.999) > plan.epsilon()


def test_sampling_rate() -> None:
    plan = PrivacyPlan(2.0, 0.1, 40, 1e-5, 1000)
    honest = sampling_epsilon(plan, 4000, 40_000, 0.999)
    assert 0.9 * plan.epsilon() < honest < plan.epsilon()
    assert sampling_epsilon(plan, 4800, 40_000, 0.999) > plan.epsilon()
    # Everybody in each step: the claim without amplification.
    full = replace(plan, sampling_rate=1.0, sampling=FullBatch()).epsilon()
    assert sampling_epsilon(plan, 40_000, 40_000, 0.999) == pytest.approx(full, rel=2e-2)
    assert sampling_epsilon(plan, 0, 40_000) == 0
    with pytest.raises(InputError, match="no rate of independent coins"):
        sampling_epsilon(replace(plan, sampling=FixedSizeSampling(100, 1000)), 4000, 40_000)


def test_nothing_to_observe() -> None:
    with pytest.raises(InputError, match="show nothing"):
        step_audit(mechanism_for_audit(PNEUMONIA, FlatClipping(1.0), 100), steps=0, directions=100)
