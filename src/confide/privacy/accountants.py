# SPDX-License-Identifier: Apache-2.0
# pyright: reportMissingTypeStubs=false
"""ε of composed mechanisms, and the noise that keeps ε below a target.

The claim is the pessimistic privacy-loss-distribution bound (Koskela et al. 2020; Doroshenko et al. 2022,
arXiv:2207.04380) of Google's dp-accounting. Rényi DP stands beside it as a cross-check: both are upper
bounds, by independent routes. The Gaussian-DP limit (Bu et al. 2019, arXiv:1911.11607) is what deepee
reported; it is an approximation from below in most cases, and never a claim.

| edge case | what happens |
|---|---|
| σ too small for a finite ε | ε = ∞ |
| ε above 20 | a coarser grid, so that memory stays bounded; still an upper bound |
| losses of a step far below the grid | a finer grid |
| ε above 10⁴, or δ below what PLD's truncation allows | the RDP bound, and the guarantee says so |
| fixed-size sampling | RDP: no privacy-loss distribution is known to dp-accounting |
| one event with parts under both relations | refused: the same σ means two things in it |
"""

from __future__ import annotations

import difflib
import math
from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING

from confide.errors import PlanError
from confide.privacy.bounds import (
    GRID,
    SCOUT_ORDERS,
    adjacency_of,
    checked_delta,
    pld_epsilon,
    rdp_curve,
    rdp_epsilon,
)
from confide.privacy.gdp import gaussian_epsilon, gdp_epsilon
from confide.privacy.groups import group_epsilon
from confide.privacy.schemes import FixedSizeSampling, PoissonSampling, Sampling
from confide.privacy.units import Adjacency

if TYPE_CHECKING:
    from dp_accounting import DpEvent

__all__ = [
    "GRID",
    "SCOUT_ORDERS",
    "Accountant",
    "accountant_named",
    "adjacency_of",
    "checked_delta",
    "claim",
    "compose",
    "epsilon",
    "gaussian_epsilon",
    "gdp_epsilon",
    "pld_epsilon",
    "rdp_curve",
    "rdp_epsilon",
    "select_best_epsilon",
]

# Points of a privacy-loss distribution between 0 and ε; bounds time and memory where ε is huge.
_POINTS = 2e5
_POINTS_OF_ONE_STEP = 1e5
# Above this ε no grid is tried: e^ε leaves the range of a double.
_HOPELESS = 1e4


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
        near = difflib.get_close_matches(str(name).lower(), [a.value for a in Accountant], n=1, cutoff=0.0)
        raise PlanError(
            f"unknown accountant {name!r}; the nearest is {near[0]!r}",
            remedy="Choose pld (the claim), rdp (cross-check) or gdp (no bound).",
        ) from None


@lru_cache(maxsize=4096)
def claim(
    sampling: Sampling, noise_multiplier: float, steps: int, delta: float, coarse: float = 1.0
) -> tuple[float, Accountant]:
    """The ε that is claimed for T steps of noise σ·C under a sampling scheme, and whose bound it is.

    It is PLD's, unless there is none (fixed-size sampling: RDP, under replace-one), or RDP's is smaller: at
    extreme parameters PLD's truncation exceeds δ. Both bounds hold, and the choice depends on public values
    only.

    Args:
        coarse: Widens the grid of the privacy-loss distribution: faster and larger, still an upper bound.
    """
    event = sampling.event(noise_multiplier, steps)
    if isinstance(sampling, FixedSizeSampling):
        return rdp_epsilon(event, delta), Accountant.RDP
    size = rdp_epsilon(event, delta, SCOUT_ORDERS)
    if size > _HOPELESS:
        return rdp_epsilon(event, delta), Accountant.RDP
    grid = coarse * _grid(_rate(sampling), noise_multiplier, size)
    by_pld = pld_epsilon(event, delta, grid)
    return (by_pld, Accountant.PLD) if by_pld <= size else (rdp_epsilon(event, delta), Accountant.RDP)


def _grid(rate: float, noise_multiplier: float, size: float) -> float:
    """Spacing of the privacy-loss distribution for ε of about `size`: accurate, in bounded time and space."""
    # Losses of a step are rounded up to the grid, so it stays below their standard deviation.
    deviation = rate * math.sqrt(math.expm1(min(noise_multiplier**-2, 100.0)))
    # Loss of one step at seven standard deviations: dp-accounting visits each grid point below it.
    exponent = (0.5 + 7 * noise_multiplier) / noise_multiplier**2
    largest = exponent + math.log(rate + math.exp(-min(exponent, 700.0)))
    return max(min(GRID, deviation / 10), size / _POINTS, largest / _POINTS_OF_ONE_STEP)


def _rate(sampling: Sampling) -> float:
    return sampling.probability if isinstance(sampling, PoissonSampling) else 1.0


def epsilon(
    sampling: Sampling, noise_multiplier: float, steps: int, delta: float, units: int, accountant: Accountant
) -> float:
    """ε of T steps of noise σ·C under a sampling scheme; `Accountant.PLD` stands for the claim.

    Raises:
        PlanError: If δ is impossible, or GDP is asked of fixed-size sampling.
    """
    checked_delta(delta)
    if accountant is Accountant.PLD:
        return claim(sampling, noise_multiplier, steps, delta)[0]
    if accountant is Accountant.RDP:
        return _rdp_of_steps(sampling, noise_multiplier, steps, delta)
    if isinstance(sampling, FixedSizeSampling):
        raise PlanError(
            "the GDP approximation is not offered for fixed-size sampling",
            why="deepee's formula leaves out that replacing a unit moves a sum by 2C.",
            remedy="Use accountant='rdp'.",
        )
    return gdp_epsilon(sampling, noise_multiplier, steps, delta, units)


@lru_cache(maxsize=4096)
def _rdp_of_steps(sampling: Sampling, noise_multiplier: float, steps: int, delta: float) -> float:
    return rdp_epsilon(sampling.event(noise_multiplier, steps), delta)


def compose(events: list[DpEvent], delta: float) -> tuple[float, Accountant]:
    """ε(δ) of several mechanisms on the same data, and the accountant that found it.

    PLD where every event has a privacy-loss distribution, otherwise RDP for all. Where some events are stated
    under replace-one and others under add-or-remove-one, the sum is stated under replace-one: a replacement
    is an addition and a removal, so the add-or-remove part counts for a group of two; δ is split evenly and
    the two ε are added.

    Raises:
        PlanError: If no accountant knows an event, or a single event mixes relations.
    """
    import dp_accounting as dpa
    from dp_accounting.pld import PLDAccountant

    checked_delta(delta)
    added = [event for event in events if adjacency_of(event) is Adjacency.ADD_OR_REMOVE_ONE]
    replaced = [event for event in events if adjacency_of(event) is Adjacency.REPLACE_ONE]
    if not events:
        return 0.0, Accountant.PLD
    if added and replaced:
        doubled = group_epsilon(rdp_curve(dpa.ComposedDpEvent(added)), 2, delta / 2)
        return doubled + rdp_epsilon(dpa.ComposedDpEvent(replaced), delta / 2), Accountant.RDP
    everything = dpa.ComposedDpEvent(events)
    if not PLDAccountant().supports(everything):
        return rdp_epsilon(everything, delta), Accountant.RDP
    return _by_grid(everything, delta), Accountant.PLD


def _by_grid(event: DpEvent, delta: float) -> float:
    """PLD with a grid that fits the size of ε, where RDP can tell it beforehand."""
    try:
        size = rdp_epsilon(event, delta, SCOUT_ORDERS)
    except PlanError:  # such as the mixture of Gaussians of a group
        return pld_epsilon(event, delta, 10 * GRID)
    if size > _HOPELESS:
        return rdp_epsilon(event, delta)
    return min(size, pld_epsilon(event, delta, max(GRID, size / _POINTS)))


def select_best_epsilon(event: DpEvent, delta: float, mean_trials: float, *, shape: float = 1.0) -> float:
    """ε of training a random number of times and keeping only the best.

    Papernot & Steinke (2022), arXiv:2110.03620. Valid only if the number of trials is really drawn so, no
    trial is stopped early by a score, and nothing but the best trial's output is looked at. Pruning (Optuna)
    voids
    it: then every trial counts in full.

    Args:
        event: One trial.
        mean_trials: Mean number of trials, at least 1.
        shape: The number is truncated negative binomial: 1 geometric, 0 logarithmic; infinity is Poisson.

    Raises:
        PlanError: If there is no such distribution.
    """
    import dp_accounting as dpa

    least_mean = 0.0 if math.isinf(shape) else 1.0
    if not (math.isfinite(mean_trials) and mean_trials > least_mean):
        raise PlanError(f"a mean of {mean_trials} trials is not a number above {least_mean:g}")
    if not shape >= 0:
        raise PlanError(
            f"shape {shape} is negative", remedy="Use 1 (geometric), 0 (logarithmic) or infinity (Poisson)."
        )
    return rdp_epsilon(dpa.dp_event.RepeatAndSelectDpEvent(event, mean_trials, shape), delta)
