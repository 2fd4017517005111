# SPDX-License-Identifier: Apache-2.0
"""ε of composed mechanisms, and the noise that keeps ε below a target.

The claim is the pessimistic privacy-loss-distribution bound (Koskela et al. 2020; Doroshenko et al. 2022,
arXiv:2207.04380) of Google's dp-accounting. Rényi DP stands beside it as a cross-check: both are upper bounds, by
independent routes. The Gaussian-DP limit (Bu et al. 2019, arXiv:1911.11607) is what deepee reported; it is an
approximation from below in most cases, and never a claim.

| edge case | what happens |
|---|---|
| σ too small for a finite ε | ε = ∞ |
| ε below what the grid resolves | rounded up to the grid, never below zero |
| fixed-size sampling | RDP: no privacy-loss distribution is known to dp-accounting |
"""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING

from confide.errors import PlanError
from confide.privacy.schemes import FixedSizeSampling, Sampling

if TYPE_CHECKING:
    from dp_accounting import DpEvent

GRID = 1e-4
# dp-accounting's own search for the smallest ε stops at float precision; this covers its rounding.
_SLACK = 1e-9
# Orders dense where subsampled Gaussians have their optimum.
ORDERS = (
    *(1 + x / 20 for x in range(1, 200)),
    *range(11, 64),
    *(64, 72, 80, 96, 112, 128, 160, 192, 256, 320, 384, 448, 512, 640, 768, 1024),
)


class Accountant(StrEnum):
    """How ε is computed."""

    PLD = "pld"
    RDP = "rdp"
    GDP = "gdp"


def accountant_named(name: str) -> Accountant:
    """The accountant of this name.

    Raises:
        PlanError: If there is none.
    """
    try:
        return Accountant(name)
    except ValueError:
        raise PlanError(
            f"unknown accountant {name!r}", remedy="Choose pld (the claim), rdp (cross-check) or gdp (no bound)."
        ) from None


def pld_epsilon(event: DpEvent, delta: float, grid: float = GRID) -> float:
    """Pessimistic ε(δ) of an event by privacy-loss distributions, under add-or-remove-one.

    Raises:
        PlanError: If the event has no known privacy-loss distribution.
    """
    from dp_accounting import UnsupportedEventError
    from dp_accounting.pld import PLDAccountant

    accountant = PLDAccountant(value_discretization_interval=grid)
    try:
        accountant.compose(event)
    except UnsupportedEventError as error:
        raise PlanError("has no privacy-loss distribution", why=str(error), remedy="Use accountant='rdp'.") from None
    return _pessimistic(accountant.get_epsilon(delta))


def rdp_epsilon(event: DpEvent, delta: float) -> float:
    """ε(δ) of an event by Rényi DP; the only accountant for sampling without replacement."""
    import dp_accounting as dpa
    from dp_accounting.rdp import RdpAccountant

    relation = dpa.NeighboringRelation
    for neighbours in (relation.ADD_OR_REMOVE_ONE, relation.REPLACE_ONE):
        accountant = RdpAccountant(ORDERS, neighbours)
        if accountant.supports(event):
            accountant.compose(event)
            return _pessimistic(accountant.get_epsilon(delta))
    raise PlanError("mixes events whose neighbouring relations differ, so no one accountant holds for both")


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
    from scipy.optimize import brentq
    from scipy.stats import norm

    if not math.isfinite(mu):
        return math.inf

    def excess(epsilon: float) -> float:
        upper = norm.logcdf(-epsilon / mu + mu / 2)
        lower = epsilon + norm.logcdf(-epsilon / mu - mu / 2)
        return math.exp(upper) - math.exp(min(lower, 0.0)) - delta

    if excess(0.0) <= 0:
        return 0.0
    high = 1.0
    while excess(high) > 0:
        high *= 2
        if high > 1e6:
            return math.inf
    return float(brentq(excess, 0.0, high, xtol=1e-12)) + 1e-12  # pyright: ignore[reportArgumentType, reportCallIssue]


@lru_cache(maxsize=4096)
def epsilon(
    sampling: Sampling,
    noise_multiplier: float,
    steps: int,
    delta: float,
    units: int,
    accountant: Accountant,
    grid: float = GRID,
) -> float:
    """ε of T steps of noise σ·C under a sampling scheme.

    A coarser `grid` of the privacy-loss distribution is faster and larger: still an upper bound.

    Fixed-size sampling has no known privacy-loss distribution: its claim is the RDP bound, under replace-one.
    """
    if accountant is Accountant.GDP:
        return gdp_epsilon(sampling, noise_multiplier, steps, delta, units)
    event = sampling.event(noise_multiplier, steps)
    if accountant is Accountant.RDP or isinstance(sampling, FixedSizeSampling):
        return rdp_epsilon(event, delta)
    return pld_epsilon(event, delta, grid)


def calibrate(spends: Callable[[float], float], target: float, *, start: float = 1.0, precision: float = 1e-4) -> float:
    """Smallest noise multiplier, to a relative precision, that is seen to spend at most `target`.

    `spends(σ)` must fall with σ. The value returned was evaluated: `spends(result) <= target` always holds.

    Args:
        start: A guess; a good one saves evaluations.

    Raises:
        PlanError: If no noise below 10⁶ keeps the target.
    """
    factor = 1 + 8 * precision
    low = high = start
    while spends(high) > target:
        low, high, factor = high, high * factor, factor**2
        if high > 1e6:
            raise PlanError(
                f"no noise multiplier below 1e6 keeps ε ≤ {target:g}", remedy="Raise ε or δ, or take fewer steps."
            )
    factor = 1 + 8 * precision
    while low == high or spends(low) <= target:
        low, high, factor = low / factor, low, factor**2
        if low < 1e-3:
            return high
    while high > low * (1 + precision):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if spends(middle) <= target else (middle, high)
    return high


def compose(events: list[DpEvent], delta: float) -> tuple[float, Accountant]:
    """ε(δ) of several mechanisms on the same data, and the accountant that found it.

    PLD where every event has a privacy-loss distribution. Otherwise δ is split evenly: PLD for those that have one
    and RDP for the rest, each under its own relation, and the two ε are added (basic composition; a replacement is an
    addition and a removal, so the statement is made for the weaker relation).
    """
    import dp_accounting as dpa
    from dp_accounting.pld import PLDAccountant

    supported = [event for event in events if PLDAccountant().supports(event)]
    rest = [event for event in events if not PLDAccountant().supports(event)]
    if not rest:
        return (pld_epsilon(dpa.ComposedDpEvent(supported), delta) if supported else 0.0), Accountant.PLD
    if not supported:
        return rdp_epsilon(dpa.ComposedDpEvent(rest), delta), Accountant.RDP
    # Replace-one moves the add-or-remove part twice. RDP, because the lemma needs ε at very small δ.
    doubled = group_epsilon(lambda d: rdp_epsilon(dpa.ComposedDpEvent(supported), d), 2, delta / 2)
    return doubled + rdp_epsilon(dpa.ComposedDpEvent(rest), delta / 2), Accountant.RDP


def poisson_group_event(probability: float, noise_multiplier: float, steps: int, size: int) -> DpEvent:
    """T Poisson-subsampled Gaussians as a group of k units sees them: Bin(k, q) of its members are in a batch.

    A mixture of Gaussians, tighter than any conversion from ε of one unit.
    """
    import dp_accounting as dpa
    from scipy.stats import binom

    shares = [float(p) for p in binom.pmf(range(size + 1), size, probability)]
    mixture = dpa.dp_event.MixtureOfGaussiansDpEvent(noise_multiplier, [float(k) for k in range(size + 1)], shares)
    return dpa.SelfComposedDpEvent(mixture, steps)


def group_epsilon(spends: Callable[[float], float], size: int, delta: float) -> float:
    """ε for a group of k units, from ε(δ) for one.

    (ε, δ') for one gives (k·ε, δ'·(e^(kε) − 1)/(e^ε − 1)) for k (Vadhan 2017, lemma 2.2). δ' is searched so that the
    group's δ is at most `delta`; the value returned satisfies it.

    Args:
        spends: δ' -> ε of one unit.
        size: k ≥ 1.
        delta: δ for the group.
    """
    if size < 1:
        raise PlanError(f"a group has at least one unit, not {size}")
    if size == 1:
        return spends(delta)
    low, high = math.log(delta) - 700.0, math.log(delta / size)
    best = math.inf
    for _ in range(40):
        middle = (low + high) / 2
        one = spends(math.exp(middle))
        grown = middle + _log_growth(one, size)
        if grown <= math.log(delta):
            best, low = min(best, size * one), middle
        else:
            high = middle
    return best


def _log_growth(epsilon_one: float, size: int) -> float:
    """log((e^(kε) − 1)/(e^ε − 1)), without overflow."""
    if epsilon_one == 0:
        return math.log(size)
    if not math.isfinite(epsilon_one):
        return math.inf
    return (size - 1) * epsilon_one + math.log(-math.expm1(-size * epsilon_one)) - math.log(-math.expm1(-epsilon_one))


def select_best_epsilon(event: DpEvent, delta: float, mean_trials: float, *, shape: float = 1.0) -> float:
    """ε of training a random number of times and keeping only the best (Papernot & Steinke 2022, arXiv:2110.03620).

    The number of trials is drawn from a truncated negative binomial with this mean: `shape` 1 is geometric, 0 logarithmic;
    infinity is Poisson. Valid only if the number is really drawn so, no trial is stopped early by a score,
    and nothing but the best trial's output is looked at.
    """
    import dp_accounting as dpa
    from dp_accounting.rdp import RdpAccountant

    accountant = RdpAccountant(ORDERS)
    accountant.compose(dpa.dp_event.RepeatAndSelectDpEvent(event, mean_trials, shape))
    return _pessimistic(accountant.get_epsilon(delta))


def _pessimistic(value: float) -> float:
    """Never negative, never below what was computed."""
    if math.isnan(value):
        return math.inf
    return max(0.0, value) * (1 + _SLACK)
