# SPDX-License-Identifier: Apache-2.0
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
"""Gaussian differential privacy: exact without sampling, a central-limit approximation with it."""

from __future__ import annotations

import math

from confide.privacy.schemes import Sampling


def gdp_epsilon(sampling: Sampling, noise_multiplier: float, steps: int, delta: float, units: int) -> float:
    """ε(δ) of the central-limit approximation μ = q·√(T·(e^(1/σ²) − 1)). **No bound**: it undercounts.

    Without sampling the mechanism is exactly Gaussian DP with μ = √T/σ, and this is exact.
    """
    rate = sampling.rate(units)
    if rate == 1.0:
        mu = math.sqrt(steps) / noise_multiplier
    else:
        exponent = noise_multiplier**-2
        mu = rate * math.sqrt(steps * math.expm1(exponent)) if exponent < 700 else math.inf
    return gaussian_epsilon(mu, delta)


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Smallest ε of μ-Gaussian DP at δ: Balle & Wang (2018), arXiv:1805.06530."""
    from scipy.special import log_ndtr

    if not math.isfinite(mu):
        return math.inf

    def excess(epsilon: float) -> float:
        upper = float(log_ndtr(-epsilon / mu + mu / 2))
        lower = epsilon + float(log_ndtr(-epsilon / mu - mu / 2))
        return math.exp(upper) - math.exp(min(lower, 0.0)) - delta

    if excess(0.0) <= 0:
        return 0.0
    low, high = 0.0, 1.0
    while excess(high) > 0:
        low, high = high, high * 2
        if high > 1e6:
            return math.inf
    # Bisection keeps excess(high) <= 0: the answer is never below the true ε by more than rounding.
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    return high
