# SPDX-License-Identifier: Apache-2.0
"""The two bounds agree with closed forms, and keep each other in check."""

from __future__ import annotations

import logging
import math

import dp_accounting as dpa
import pytest

from confide.errors import PlanError
from confide.privacy.bounds import pld_epsilon, rdp_curve, rdp_epsilon
from confide.privacy.gdp import gaussian_epsilon


@pytest.mark.parametrize("sigma, delta", [(1.0, 1e-5), (4.0, 1e-6)])
def test_both_bound_a_gaussian(sigma: float, delta: float) -> None:
    event = dpa.GaussianDpEvent(sigma)
    exact = gaussian_epsilon(1 / sigma, delta)
    assert exact <= pld_epsilon(event, delta) <= exact + 2e-3
    assert exact <= rdp_epsilon(event, delta) <= 1.1 * exact
    # The textbook conversion, minimised over real orders, is above the improved one used here.
    textbook = min(
        a / (2 * sigma**2) + math.log(1 / delta) / (a - 1) for a in (1 + i / 50 for i in range(1, 5000))
    )
    assert rdp_epsilon(event, delta) <= textbook + 1e-6


def test_a_coarser_grid_is_larger() -> None:
    event = dpa.SelfComposedDpEvent(dpa.PoissonSampledDpEvent(0.1, dpa.GaussianDpEvent(2.0)), 50)
    fine, coarse = (pld_epsilon(event, 1e-5, grid) for grid in (1e-4, 1e-2))
    assert fine <= coarse <= fine + 0.1


def test_a_curve_falls_with_delta() -> None:
    curve = rdp_curve(dpa.SelfComposedDpEvent(dpa.GaussianDpEvent(5.0), 10))
    values = [curve(10.0**-k) for k in range(2, 12)]
    assert values == sorted(values)


def test_orders_that_do_not_converge_make_no_noise(caplog: pytest.LogCaptureFixture) -> None:
    event = dpa.PoissonSampledDpEvent(0.5, dpa.GaussianDpEvent(4.0))
    with caplog.at_level(logging.WARNING, logger="absl"):
        assert rdp_epsilon(event, 1e-5) > 0
    assert not [record for record in caplog.records if "Excluding" in record.getMessage()]


def test_events_without_a_bound_are_refused() -> None:
    with pytest.raises(PlanError, match="no known"):
        rdp_epsilon(dpa.dp_event.UnsupportedDpEvent(), 1e-5)
    with pytest.raises(PlanError, match="no privacy-loss distribution"):
        pld_epsilon(dpa.dp_event.UnsupportedDpEvent(), 1e-5)
