# SPDX-License-Identifier: Apache-2.0
"""Gradient and side statistics of a step are one Gaussian mechanism."""

from __future__ import annotations

import math

import dp_accounting as dpa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from confide.errors import PlanError
from confide.privacy.accountants import gaussian_epsilon, pld_epsilon
from confide.privacy.releases import Release, gradient_share


@given(z=st.floats(0.1, 100.0), ratios=st.lists(st.floats(2.0, 1e3), max_size=3))
def test_the_parts_together_cost_no_more_than_the_whole(z: float, ratios: list[float]) -> None:
    releases = tuple(Release(str(i), ratio * z) for i, ratio in enumerate(ratios))
    if math.fsum(ratio**-2 for ratio in ratios) >= 0.99:
        return
    gradient = gradient_share(z, releases)
    assert gradient >= z
    parts = math.fsum([gradient**-2, *(release.noise_multiplier**-2 for release in releases)])
    assert parts <= z**-2 * (1 + 1e-15)
    assert parts == pytest.approx(z**-2, rel=1e-9)


def test_the_joint_event_is_the_sum_of_gaussian_events() -> None:
    # The oracle composes the parts as separate Gaussians, where a batch has everybody in it.
    releases = (Release("loss", 5.0), Release("clip-fraction", 4.0))
    gradient = gradient_share(1.5, releases)
    parts = dpa.ComposedDpEvent([dpa.GaussianDpEvent(z) for z in (gradient, 5.0, 4.0)])
    assert pld_epsilon(parts, 1e-5) == pytest.approx(gaussian_epsilon(1 / 1.5, 1e-5), abs=2e-3)


def test_no_release_leaves_everything() -> None:
    assert gradient_share(1.25, ()) == 1.25


@pytest.mark.parametrize("multiplier", [0.5, 1.0])
def test_a_statistic_that_takes_the_whole_budget_is_refused(multiplier: float) -> None:
    with pytest.raises(PlanError, match="whole budget"):
        gradient_share(1.0, (Release("loss", multiplier),))


@pytest.mark.parametrize("multiplier", [0.0, -1.0, math.nan, math.inf])
def test_a_statistic_without_noise_is_refused(multiplier: float) -> None:
    with pytest.raises(PlanError, match="loss"):
        Release("loss", multiplier)


def test_a_statistic_is_released_once_and_has_a_name() -> None:
    with pytest.raises(PlanError, match="twice"):
        gradient_share(1.0, (Release("loss", 30.0), Release("loss", 20.0)))
    with pytest.raises(PlanError, match="name"):
        Release("", 30.0)
