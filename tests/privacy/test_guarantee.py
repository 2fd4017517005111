# SPDX-License-Identifier: Apache-2.0
"""A guarantee says everything it rests on, and no number in it is smaller than the truth."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from confide.privacy.gdp import gaussian_epsilon
from confide.privacy.guarantee import Guarantee, delta_text, rounded_up
from confide.privacy.plan import PrivacyPlan, Release
from confide.privacy.schemes import FixedSizeSampling
from confide.privacy.units import PrivacyUnit

PLAN = PrivacyPlan(1.0, 128 / 5216, 2038, 1e-5, 5216, releases=(Release("loss", 30.0),))
GUARANTEE = PLAN.guarantee()


@given(st.floats(0, 1e6), st.integers(0, 6))
def test_a_shown_epsilon_is_never_below_it(value: float, digits: int) -> None:
    shown = Decimal(rounded_up(value, digits))
    assert Decimal(value) <= shown <= Decimal(value) + Decimal(1).scaleb(-digits)


def test_shown_epsilons() -> None:
    assert [rounded_up(v) for v in (2.991, 3.0, 7.41999, math.inf, math.nan)] == [
        "3.00",
        "3.00",
        "7.42",
        "∞",
        "∞",
    ]


@given(st.floats(1e-300, 0.999))
def test_a_shown_delta_is_never_below_it(delta: float) -> None:
    assert delta <= float(delta_text(delta)) <= delta * (1 + 1.1e-5)


def test_the_text_states_every_condition() -> None:
    text = str(GUARANTEE)
    for part in (
        "ε = 7.18",
        "δ = 1e-05",
        "per image",
        "add-or-remove-one",
        "PLD",
        "poisson",
        "q = 0.0245399",
        "σ = 1",
        "T = 2038",
        "n = 5216",
        "RDP 7.84",
        "GDP 6.79 (approximation, no bound)",
        "declared public",
        "constant 128",
        "hyper-parameter selection is not accounted",
        "floating-point noise is not hardened",
        "a patient with several images is protected less",
        "loss (noise multiplier 30)",
    ):
        assert part in text, part
    assert "not hardened" not in str(replace(PLAN, integers=1000).guarantee())
    assert "discrete Gaussian" in str(replace(PLAN, integers=1000).guarantee())
    patients = str(replace(PLAN, unit=PrivacyUnit.PATIENT).guarantee())
    assert "per patient" in patients
    assert "protected less" not in patients


def test_a_seeded_run_is_stamped() -> None:
    seeded = PLAN.guarantee(private=False)
    assert str(seeded).startswith("not private: seeded")
    assert "not private: seeded" in seeded.in_words()
    assert seeded.best_guess() == seeded.posterior(0.01) == 1.0


@pytest.mark.parametrize("mu", [0.1, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("delta", [1e-3, 1e-5])
def test_the_attacks_stay_within_what_a_gaussian_mechanism_really_allows(mu: float, delta: float) -> None:
    """The true optimum of a μ-Gaussian mechanism, which is (ε, δ)-DP, must not exceed what the words say."""
    guarantee = replace(GUARANTEE, epsilon=gaussian_epsilon(mu, delta), delta=delta)
    assert norm.cdf(mu / 2) <= guarantee.best_guess() <= 1.0
    # Odds grow by e^L, L ~ N(μ²/2, μ²) if the unit is in: how often do they exceed what is said?
    factor = guarantee.posterior(0.01) / (1 - guarantee.posterior(0.01)) / (0.01 / 0.99)
    beyond = norm.sf((math.log(factor) - mu**2 / 2) / mu)
    assert beyond <= guarantee.exception
    assert guarantee.exception == pytest.approx(11 * delta)


def test_the_worst_mechanism_of_all_stays_within_the_words() -> None:
    """Randomised response with failure δ attains the bound of `best_guess` with equality."""
    epsilon, delta = 1.3, 1e-2
    guarantee = replace(GUARANTEE, epsilon=epsilon, delta=delta)
    right = delta + (1 - delta) * math.exp(epsilon) / (1 + math.exp(epsilon))
    assert guarantee.best_guess() == pytest.approx(right, rel=1e-12)


def test_the_words_for_a_patient_board() -> None:
    words = replace(GUARANTEE, unit=PrivacyUnit.PATIENT, epsilon=1.0).in_words()
    assert "73.2% of the time" in words  # e/(1 + e) = 0.7311, rounded up
    assert "1 in 100, can become no surer than 3.0%" in words  # odds 1.1·e/99
    assert "1 in 9,090" in words
    assert "one patient, with all of the patient's images, had been left out" in words
    assert "protected less" not in words
    assert "little protection" not in words
    assert "little protection" in replace(GUARANTEE, epsilon=8.0).in_words()
    assert "protects nobody" in replace(GUARANTEE, epsilon=math.inf).in_words()
    fixed = (
        PrivacyPlan(1.0, 0.1, 10, 1e-5, 1000, sampling=FixedSizeSampling(100, 1000)).guarantee().in_words()
    )
    assert "exchanged for another" in fixed


def test_a_guarantee_survives_json() -> None:
    record = json.loads(json.dumps(GUARANTEE.to_dict()))
    assert Guarantee.from_dict(record) == GUARANTEE
    assert record["text"] == str(GUARANTEE)
    assert record["in_words"] == GUARANTEE.in_words()
