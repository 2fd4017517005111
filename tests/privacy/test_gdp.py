# SPDX-License-Identifier: Apache-2.0
"""The Gaussian closed form, against mpmath; the approximation, against its own formula in the limit."""

from __future__ import annotations

import math

import mpmath
import pytest
from hypothesis import given
from hypothesis import strategies as st

from confide.privacy.gdp import gaussian_epsilon, gdp_epsilon
from confide.privacy.schemes import FullBatch, PoissonSampling


@given(mu=st.floats(0.01, 20.0), exponent=st.floats(2.0, 12.0))
def test_epsilon_of_a_gaussian_is_the_smallest_that_keeps_delta(mu: float, exponent: float) -> None:
    delta = 10**-exponent
    epsilon = gaussian_epsilon(mu, delta)

    def exact(at: float) -> mpmath.mpf:
        with mpmath.workdps(60):
            a, m = mpmath.mpf(at), mpmath.mpf(mu)
            return mpmath.ncdf(m / 2 - a / m) - mpmath.exp(a) * mpmath.ncdf(-m / 2 - a / m)

    assert exact(epsilon * (1 + 1e-7) + 1e-7) <= delta
    if epsilon > 1e-6:
        assert exact(epsilon * (1 - 1e-6)) > delta


def test_limits() -> None:
    assert gaussian_epsilon(1e-9, 1e-5) == 0.0
    assert gaussian_epsilon(math.inf, 1e-5) == math.inf
    assert gdp_epsilon(PoissonSampling(0.1), 0.01, 10, 1e-5, 100) == math.inf
    # Without sampling it is exact: T steps of σ are one of σ/√T.
    assert gdp_epsilon(FullBatch(), 10.0, 100, 1e-5, 100) == pytest.approx(gaussian_epsilon(1.0, 1e-5))
    # Almost no signal: √(e^(1/σ²) − 1) ≈ 1/σ.
    near = gdp_epsilon(PoissonSampling(0.5), 100.0, 400, 1e-5, 100)
    assert near == pytest.approx(gaussian_epsilon(0.5 * 20 / 100, 1e-5), rel=1e-3)
