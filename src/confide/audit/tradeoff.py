# SPDX-License-Identifier: Apache-2.0
"""Trade-off curves: how rarely an event can happen under one data set, given how often under its neighbour.

f(x) of Dong, Roth, Su (2019), arXiv:1905.02383, is the least false-negative rate of a test with
false-positive rate x. Audits need its mirror image, the *least probability* b(x) = f(1 − x): an event of
probability x under one data set has at least probability b(x) under every neighbour. Each curve here errs
towards smaller b, so an audit that uses it rejects too seldom rather than too often.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import log_ndtr, ndtr, ndtri

from confide.errors import PlanError
from confide.privacy.schemes import FixedSizeSampling, FullBatch

if TYPE_CHECKING:
    from confide.privacy.plan import PrivacyPlan

# Grid of privacy losses of a plan's curve, in ε; between grid points the curve is a chord from below.
LOSSES = np.concatenate([np.linspace(0.0, 4.0, 161), np.linspace(4.1, 20.0, 160)])


class Curve(Protocol):
    """A trade-off curve."""

    def least(self, probability: float) -> float:
        """b(x): least probability, under a neighbour, of an event that has probability x."""
        ...


@dataclass(frozen=True)
class GaussianCurve:
    """The trade-off curve of N(0, 1) against N(μ, 1)."""

    mu: float

    @classmethod
    def of(cls, epsilon: float, delta: float) -> GaussianCurve:
        """The curve of the Gaussian mechanism that is exactly (ε, δ)-DP."""
        return cls(gaussian_mu(epsilon, delta))

    def least(self, probability: float) -> float:
        """Φ(Φ⁻¹(x) − μ)."""
        return float(ndtr(ndtri(probability) - self.mu))


def gaussian_mu(epsilon: float, delta: float) -> float:
    """The μ at which μ-GDP is exactly (ε, δ)-DP, rounded up: Dong, Roth, Su (2019), corollary 2.13."""

    def excess(mu: float) -> float:
        here = log_ndtr(mu / 2 - epsilon / mu)
        there = epsilon + log_ndtr(-mu / 2 - epsilon / mu)
        return float(here + math.log1p(-math.exp(min(there - here, -1e-300)))) - math.log(delta)

    high = 1.0
    while excess(high) < 0:
        high *= 2
    low = min(1.0, high / 2)
    while excess(low) > 0:
        low /= 2
    root: Any = brentq(excess, low, high, xtol=1e-12)
    return float(root) + 1e-9


@dataclass(frozen=True)
class ProfileCurve:
    """The upper envelope of lines: what a privacy profile ε ↦ δ(ε) says of probabilities.

    An event of probability x has at least e^(−ε)·(x − δ(ε)) under a neighbour; and its complement says that
    it has at least 1 − δ(ε) − e^ε·(1 − x).
    """

    starts: tuple[float, ...]
    lines: tuple[tuple[float, float], ...]

    @classmethod
    def of(cls, epsilons: NDArray[np.float64], deltas: NDArray[np.float64]) -> ProfileCurve:
        """The curve of a profile: δ at each ε, an upper bound."""
        down = np.exp(-epsilons)
        up = np.exp(epsilons)
        slopes = np.concatenate([[0.0], down, up])
        offsets = np.concatenate([[0.0], -deltas * down, 1 - deltas - up])
        return cls(*_envelope(sorted(zip(slopes.tolist(), offsets.tolist(), strict=True))))

    def least(self, probability: float) -> float:
        """The highest line at x."""
        slope, offset = self.lines[bisect_right(self.starts, probability) - 1]
        return max(0.0, slope * probability + offset)


def _envelope(
    lines: Sequence[tuple[float, float]],
) -> tuple[tuple[float, ...], tuple[tuple[float, float], ...]]:
    """The upper envelope on [0, 1] of lines (slope, offset) sorted by slope, and where each begins."""
    starts: list[float] = []
    kept: list[tuple[float, float]] = []
    for slope, offset in lines:
        if kept and kept[-1][0] == slope:  # sorted: this one lies above
            kept.pop()
            starts.pop()
        begins = 0.0
        while kept:
            begins = (kept[-1][1] - offset) / (slope - kept[-1][0])
            if begins > starts[-1]:
                break
            kept.pop()
            starts.pop()
            begins = 0.0
        if begins <= 1.0:
            kept.append((slope, offset))
            starts.append(begins)
    return tuple(starts), tuple(kept)


class PlanCurves:
    """The curves of a plan under other noise multipliers σ·2^(k/8): level 0 is the claim itself.

    Rejecting a level says: the mechanism leaks more than this very plan would with that noise. So no Gaussian
    shape is put in place of the subsampled mechanism's own.

    Raises:
        PlanError: For fixed-size sampling, of which no privacy profile is known.
    """

    def __init__(self, plan: PrivacyPlan) -> None:
        if isinstance(plan.sampling, FixedSizeSampling):
            raise PlanError(
                "fixed-size sampling has no known privacy profile",
                remedy="Use the (ε, δ) method of the audit.",
            )
        self._plan = replace(plan, releases=())

    def at(self, level: int) -> PrivacyPlan:
        """The plan of a level; the lower the level, the less noise."""
        return replace(self._plan, noise_multiplier=self._plan.noise_multiplier * 2 ** (level / 8))

    def curve(self, level: int) -> Curve:
        """The trade-off curve of a level."""
        return plan_curve(self.at(level))


@lru_cache(maxsize=256)
def plan_curve(plan: PrivacyPlan) -> Curve:
    """The trade-off curve of a plan: exact for full batches, else from its privacy-loss distribution."""
    if isinstance(plan.sampling, FullBatch):
        return GaussianCurve(math.sqrt(plan.steps) / plan.noise_multiplier)
    return ProfileCurve.of(LOSSES, plan_deltas(plan, LOSSES))


def plan_deltas(plan: PrivacyPlan, epsilons: NDArray[np.float64]) -> NDArray[np.float64]:
    """δ(ε) of a plan at each ε, pessimistic, under add-or-remove-one.

    Raises:
        PlanError: For a sampling scheme without a privacy-loss distribution.
    """
    from dp_accounting.pld import privacy_loss_distribution

    if isinstance(plan.sampling, FixedSizeSampling):
        raise PlanError("fixed-size sampling has no known privacy profile")
    # A twenty-fifth of the grid on which the profile is read.
    one = privacy_loss_distribution.from_gaussian_mechanism(
        plan.noise_multiplier, sampling_prob=plan.sampling_rate, value_discretization_interval=1e-3
    )
    # Where both directions differ, the larger δ counts.
    return np.asarray(one.self_compose(plan.steps).get_delta_for_epsilon(epsilons.tolist()), dtype=np.float64)
