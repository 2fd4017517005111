# SPDX-License-Identifier: Apache-2.0
"""What a guarantee for one unit says about several."""

from __future__ import annotations

import math

import pytest

from confide.privacy.accountants import gaussian_epsilon, pld_epsilon, rdp_curve
from confide.privacy.groups import group_epsilon, poisson_group_event
from confide.privacy.schemes import FixedSizeSampling, PoissonSampling


def test_the_lemma_holds_for_a_gaussian_whose_groups_are_known_exactly() -> None:
    mu, delta = 0.3, 1e-6
    for size in (2, 3, 5):
        exact = gaussian_epsilon(size * mu, delta)
        bound = group_epsilon(lambda d: gaussian_epsilon(mu, d), size, delta)
        assert exact <= bound <= 2.5 * exact


def test_the_lemma_result_satisfies_its_inequality() -> None:
    # Pure ε-DP: a group of k has exactly k·ε.
    assert group_epsilon(lambda delta: 0.7, 4, 1e-5) == pytest.approx(2.8)
    assert group_epsilon(lambda delta: 0.7, 1, 1e-5) == 0.7
    assert group_epsilon(lambda delta: math.inf, 2, 1e-5) == math.inf


def test_a_mixture_is_tighter_than_the_lemma_and_meets_both_ends() -> None:
    q, sigma, steps, delta = 0.02, 2.0, 200, 1e-5
    one = PoissonSampling(q).event(sigma, steps)
    mixture = pld_epsilon(poisson_group_event(q, sigma, steps, 3), delta, 1e-3)
    assert 3 * pld_epsilon(one, delta) < mixture + 0.5
    assert mixture < group_epsilon(rdp_curve(one), 3, delta)
    assert pld_epsilon(poisson_group_event(q, sigma, steps, 1), delta, 1e-3) == pytest.approx(
        pld_epsilon(one, delta), abs=5e-3
    )
    # Everybody in every batch: the group is one Gaussian of k times the shift.
    everybody = pld_epsilon(poisson_group_event(1.0, 3.0, 1, 2), delta, 1e-3)
    assert everybody == pytest.approx(gaussian_epsilon(2 / 3, delta), abs=2e-3)


def test_groups_under_replacement() -> None:
    curve = rdp_curve(FixedSizeSampling(10, 1000).event(2.0, 100))
    assert group_epsilon(curve, 2, 1e-5) > 2 * curve(1e-5)
