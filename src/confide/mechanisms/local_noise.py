# SPDX-License-Identifier: Apache-2.0
"""The noise of local mechanisms, and the ε that Gaussian noise has.

Both kinds of noise are whole numbers from exact samplers: no float decides a probability. For a claim of δ
= 0 that is not a nicety. A float sampler has tails that end somewhere and probabilities that are off by
rounding, and over the 65,536 values of an image at an ε in the thousands neither is small in proportion.
"""

from __future__ import annotations

import math
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from confide.errors import PlanError
from confide.mechanisms.hardened import discrete_gaussian
from confide.mechanisms.keys import Stream
from confide.privacy.discrete import STEPS_PER_STD, distance, epsilon_besides

_PIECE = 1 << 20
_FIRST, _MORE = 16, 256
# e^-2048 of a draw lies beyond the highest bit: less than 2^-2900.
_REACH = 2048


def discrete_laplace(scale: float | Fraction, shape: tuple[int, ...], stream: Stream) -> NDArray[np.int64]:
    """Whole numbers k with probability proportional to exp(-|k|/scale).

    The difference of two geometric numbers. The binary digits of a geometric number are independent coins,
    digit j being 1 with probability 1/(1 + exp(2^j/scale)); each coin compares random bits with the digits
    of its probability, as many as it takes, up to 272.

    Raises:
        PlanError: If the scale is beyond 2^40, where whole numbers of 64 bits end.
    """
    exact = Fraction(scale)
    if not 0 < exact <= 2**40:
        raise PlanError(f"noise of scale {float(exact):g} on whole numbers is out of reach")
    coins = _digit_coins(exact)
    count = math.prod(shape)
    out = np.empty(count, np.int64)
    for start in range(0, count, _PIECE):
        piece = out[start : start + _PIECE]
        piece[:] = _geometric(coins, len(piece), stream)
        piece -= _geometric(coins, len(piece), stream)
    return out.reshape(shape)


def _digit_coins(scale: Fraction) -> list[int]:
    """⌊2^272 / (1 + exp(2^j/scale))⌋ for each binary digit j that a draw can have."""
    coins: list[int] = []
    with localcontext() as context:
        context.prec = 120
        while not coins or 2 ** len(coins) < _REACH * scale:
            power = 2 ** len(coins) / scale
            if power > 2 * _REACH:
                coins.append(0)
                continue
            odds = (Decimal(power.numerator) / Decimal(power.denominator)).exp()
            coins.append(int(Decimal(2) ** (_FIRST + _MORE) / (1 + odds)))
    return coins


def _geometric(coins: list[int], count: int, stream: Stream) -> NDArray[np.int64]:
    found = np.zeros(count, np.int64)
    for digit, coin in enumerate(coins):
        word = np.frombuffer(stream.bytes(2 * count), dtype="<u2")
        first = coin >> _MORE
        heads = word < first
        for tie in np.flatnonzero(word == first).tolist():
            rest = int.from_bytes(stream.bytes(_MORE // 8), "little")
            heads[tie] = rest < coin & (1 << _MORE) - 1
        found += heads.astype(np.int64) << digit
    return found


def add_gaussian(values: NDArray[np.float64], stddev: float, stream: Stream) -> NDArray[np.float64]:
    """Values rounded to the lattice of spacing stddev/2^24, with discrete Gaussian noise of parameter
    stddev."""
    step = stddev / STEPS_PER_STD
    whole = np.rint(values / step).astype(np.int64).reshape(-1)
    for start in range(0, len(whole), _PIECE):
        piece = whole[start : start + _PIECE]
        piece += discrete_gaussian(stream, STEPS_PER_STD, len(piece))
    noisy: NDArray[np.float64] = whole.reshape(values.shape) * np.float64(step)
    return noisy


def lattice_epsilon(length: float, stddev: float, count: int, delta: float) -> float:
    """ε, rounded up, of `add_gaussian` where up to `count` values differ, by at most `length` together.

    The smaller of two bounds that hold for discrete Gaussian noise: that of Gaussian noise at a δ lowered
    by what the lattice costs (`confide.privacy.discrete`), and that of concentrated privacy (Canonne,
    Kamath & Steinke 2020), which is a little looser and holds at any ε. Infinite where the noise is so
    small that its cut-off at 64 standard deviations could be seen.
    """
    # Rounding to the lattice moves two values by at most one more step apart.
    mu = (length / stddev + math.sqrt(count) / STEPS_PER_STD) * (1 + 1e-12)
    if 1 / stddev > 50:
        return math.inf
    delta *= 1 - 1e-6  # what lies beyond 64 - 50 standard deviations is far less than the rest of δ
    near = epsilon_besides(lambda rest: gaussian_epsilon(mu, rest), delta, distance(count))
    return min(near, concentrated_epsilon(mu * mu / 2, delta))


def concentrated_epsilon(rho: float, delta: float) -> float:
    """ε at δ of a ρ-zCDP mechanism: the least over Rényi orders of the conversion of Canonne et al.
    (2020)."""
    best = math.sqrt(math.log(1 / delta) / rho)
    orders = 1 + best * np.geomspace(0.1, 10, 401)
    found = rho * orders + (math.log(1 / delta) + (orders - 1) * np.log1p(-1 / orders) - np.log(orders)) / (
        orders - 1
    )
    return max(0.0, float(found.min()) * (1 + 1e-9))


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
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    return high * (1 + 1e-9)
