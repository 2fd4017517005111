# SPDX-License-Identifier: Apache-2.0
"""The noise of local mechanisms, and the ε that Gaussian noise has."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from confide.mechanisms.keys import Stream


def discrete_laplace(scale: float, shape: tuple[int, ...], stream: Stream) -> NDArray[np.int64]:
    """Whole numbers k with probability proportional to exp(-|k|/scale): the difference of two geometric
    numbers.

    The uniform numbers have 53 bits, so the tail beyond 36·scale, of probability 2^-53, is missing.
    """
    count = math.prod(shape)
    first, second = (np.floor(-scale * np.log1p(-stream.uniform(count))).astype(np.int64) for _ in range(2))
    return (first - second).reshape(shape)


def gaussian(shape: tuple[int, ...], stream: Stream) -> NDArray[np.float64]:
    """Standard normal numbers, by inversion of 53-bit uniform numbers shifted by half a step off 0 and 1."""
    from scipy.special import ndtri  # pyright: ignore[reportMissingTypeStubs]

    return ndtri(stream.uniform(math.prod(shape)) + 2.0**-54).reshape(shape)


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Least ε, rounded up, at which noise of 1/`mu` times the L2 sensitivity is (ε, δ)-private.

    δ(ε) = Φ(μ/2 − ε/μ) − e^ε·Φ(−μ/2 − ε/μ): Balle & Wang (2018), arXiv:1805.06530.
    """
    from scipy.special import log_ndtr  # pyright: ignore[reportMissingTypeStubs]

    if mu == 0:
        return 0.0

    def excess(epsilon: float) -> float:
        first, second = log_ndtr(mu / 2 - epsilon / mu), epsilon + log_ndtr(-mu / 2 - epsilon / mu)
        return math.exp(first) * -math.expm1(min(0.0, second - first)) - delta

    low, high = 0.0, mu * mu / 2 + mu * math.sqrt(2 * math.log(1 / delta)) + 1
    if excess(low) <= 0:
        return 0.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    return high * (1 + 1e-9)
