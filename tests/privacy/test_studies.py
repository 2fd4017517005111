# SPDX-License-Identifier: Apache-2.0
"""Studies: known values of the account, and the distribution of the number of trials."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
from scipy import optimize, stats

from confide.errors import PlanError
from confide.privacy.plan import PrivacyPlan
from confide.privacy.studies import Study, Trials

# One trial of the pneumonia run of shared/reference/privacy-correctness.md: RDP 1.166.
PLAN = PrivacyPlan(4.0, 128 / 5216, 2038, 1e-5, 5216)


@pytest.mark.parametrize(
    ("trials", "mean", "expected"),
    [("poisson", 10, 2.68), ("geometric", 10, 2.45), ("logarithmic", 30, 2.24)],
)
def test_the_published_values(trials: str, mean: float, expected: float) -> None:
    assert Study(PLAN, mean, Trials(trials)).epsilon() == pytest.approx(expected, abs=0.01)


def test_a_study_costs_more_than_a_run_and_says_what_it_rests_on() -> None:
    study = Study(PLAN, 10)
    found = study.guarantee()
    assert found.epsilon == study.epsilon() > PLAN.epsilon("rdp")
    assert (found.accountant, found.delta) == ("rdp", PLAN.delta)
    assert "none was stopped early" in str(found) and "geometric" in str(found)
    assert "selection is not accounted" not in str(found)
    assert Study(replace(PLAN, integers=10**12), 10).epsilon() > found.epsilon


class Ladder:
    """Uniform numbers one by one from a list."""

    def __init__(self, values: list[float]) -> None:
        self._values = iter(values)

    def random(self) -> float:
        return next(self._values)


@pytest.mark.parametrize("trials", list(Trials))
def test_the_number_of_trials_has_its_distribution(trials: Trials) -> None:
    """20,000 fresh draws: their mean and four shares each within 5 deviations (6e-7, all together 3e-6)."""
    mean, count = 4.0, 20_000
    study = Study(PLAN, mean, trials)
    drawn = [study.draw(random.SystemRandom()) for _ in range(count)]
    deviation = math.sqrt(sum((k - mean) ** 2 for k in drawn) / count / count)
    assert sum(drawn) / count == pytest.approx(mean, abs=5 * deviation)
    law = {
        Trials.GEOMETRIC: stats.geom(1 / mean),
        Trials.POISSON: stats.poisson(mean),
        Trials.LOGARITHMIC: stats.logser(optimize.brentq(lambda p: stats.logser.mean(p) - mean, 0.1, 0.999)),
    }[trials]
    for k in range(4):
        p = float(law.pmf(k))
        assert drawn.count(k) / count == pytest.approx(p, abs=5 * math.sqrt(p * (1 - p) / count))
    assert min(drawn) >= (0 if trials is Trials.POISSON else 1)


def test_draws_by_inversion() -> None:
    study = Study(PLAN, 2.0)
    assert [study.draw(Ladder([u])) for u in (0.0, 0.49, 0.51, 0.76, 0.99)] == [1, 1, 2, 3, 7]
    assert study.draw(Ladder([1 - 2**-53])) < 100


@pytest.mark.parametrize(("mean", "trials"), [(1.0, "geometric"), (0.0, "poisson"), (math.nan, "geometric")])
def test_an_impossible_mean_is_refused(mean: float, trials: str) -> None:
    with pytest.raises(PlanError, match="mean"):
        Study(PLAN, mean, Trials(trials))
