# SPDX-License-Identifier: Apache-2.0
"""Studies: several trials of a plan, of which only the best is kept.

Whoever trains k times and publishes the best run has spent more than one run. Two honest accounts exist: k
runs composed (what the ledger does by itself), or the account here, after Papernot & Steinke (2022,
arXiv:2110.03620), which grows far more slowly with k. It holds only if

- the number of trials is random, drawn before the first by `Study.draw`, and kept secret;
- every trial is run to its end with the same plan: no pruning, no early stop by a score;
- nothing but the best trial's output is looked at or published.
"""

from __future__ import annotations

import math
import secrets
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Protocol

from confide.errors import PlanError
from confide.privacy.accountants import Accountant, select_best_epsilon
from confide.privacy.discrete import distance, epsilon_besides
from confide.privacy.guarantee import Guarantee
from confide.privacy.plan import PrivacyPlan

_SELECTION = "hyper-parameter selection is not accounted for"


class Uniform(Protocol):
    """A source of uniform numbers in [0, 1)."""

    def random(self) -> float:
        """The next one."""
        ...


class Trials(StrEnum):
    """How the number of trials is distributed."""

    GEOMETRIC = "geometric"
    LOGARITHMIC = "logarithmic"
    POISSON = "poisson"

    @property
    def shape(self) -> float:
        """η of the truncated negative binomial distribution; infinity for Poisson."""
        return {"geometric": 1.0, "logarithmic": 0.0, "poisson": math.inf}[self.value]


@dataclass(frozen=True)
class Study:
    """A random number of trials of one plan.

    Attributes:
        plan: One trial.
        mean: Mean number of trials.
        trials: Its distribution. Geometric and logarithmic numbers are at least one; a Poisson number may be
            zero, which must then be published as such.

    Raises:
        PlanError: If the mean is impossible.
    """

    plan: PrivacyPlan
    mean: float
    trials: Trials = Trials.GEOMETRIC

    def __post_init__(self) -> None:
        least = 0.0 if self.trials is Trials.POISSON else 1.0
        if not (math.isfinite(self.mean) and self.mean > least):
            raise PlanError(f"a mean of {self.mean} trials is not a number above {least:g}")

    def epsilon(self) -> float:
        """ε of the best trial, at the plan's δ, by Rényi DP."""
        apart = self.mean * distance(self.plan.integers * self.plan.steps) if self.plan.integers else 0.0
        event = self.plan.event()
        return epsilon_besides(
            lambda delta: select_best_epsilon(event, delta, self.mean, shape=self.trials.shape),
            self.plan.delta,
            apart,
        )

    def guarantee(self, *, private: bool = True) -> Guarantee:
        """What publishing the best trial promises, in full."""
        one = self.plan.guarantee(private=private)
        kept = [text for text in one.assumptions if not text.startswith(_SELECTION)]
        condition = (
            f"the best of a secret {self.trials.value} number of trials, {self.mean:g} on average, was"
            " chosen: none was stopped early, and of the others nothing is shown"
        )
        return replace(
            one,
            epsilon=self.epsilon(),
            accountant=Accountant.RDP.value,
            cross_checks={},
            assumptions=(*kept, condition),
        )

    def draw(self, source: Uniform | None = None) -> int:
        """How many trials to run; to be drawn once, before the first, and never shown.

        Args:
            source: Uniform numbers; default: the operating system's.
        """
        u = (source or secrets.SystemRandom()).random()
        count, share, total = self._first()
        # By inversion, from the smallest number on. Sums in double precision end below one by some 1e-16.
        while total <= u and share > 1e-18 * (1 - min(total, 1 - 1e-16)) and count < 10**9:
            count += 1
            share = self._next(count, share)
            total += share
        return count

    def _first(self) -> tuple[int, float, float]:
        """The smallest number of trials, its probability, and the sum so far."""
        match self.trials:
            case Trials.GEOMETRIC:
                return 1, 1 / self.mean, 1 / self.mean
            case Trials.LOGARITHMIC:
                gamma = halting(self.mean)
                share = -(1 - gamma) / math.log(gamma)
                return 1, share, share
            case Trials.POISSON:
                return 0, math.exp(-self.mean), math.exp(-self.mean)

    def _next(self, count: int, share: float) -> float:
        """Probability of `count` trials, from that of one less."""
        match self.trials:
            case Trials.GEOMETRIC:
                return share * (1 - 1 / self.mean)
            case Trials.LOGARITHMIC:
                return share * (1 - halting(self.mean)) * (count - 1) / count
            case Trials.POISSON:
                return share * self.mean / count


def halting(mean: float) -> float:
    """γ of the logarithmic distribution of this mean: (1/γ − 1)/log(1/γ) = mean, by bisection of log γ."""
    low, high = -700.0, -1e-9
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if math.expm1(-middle) / -middle > mean else (low, middle)
    return math.exp(high)
