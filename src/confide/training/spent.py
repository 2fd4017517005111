# SPDX-License-Identifier: Apache-2.0
"""ε after any number of steps of a plan, cheap enough for a progress bar, and never too low."""

from __future__ import annotations

import math

from confide.privacy.accountants import claim
from confide.privacy.plan import PrivacyPlan

# Inside a run the privacy-loss distribution may be rough: it is ten times quicker, and still an upper bound.
_COARSE = 10.0


class SpentCurve:
    """Upper bound of ε spent after s steps.

    ε is computed at 1/`points` of the plan, 2/`points`, …, and a step in between is given the next of these
    values: ε grows with the steps, so the answer is an upper bound. After the last step it is the claim.
    """

    def __init__(self, plan: PrivacyPlan, points: int = 24) -> None:
        self._plan = plan
        self._stride = max(1, math.ceil(plan.steps / points))
        self._known: dict[int, float] = {}

    def at(self, steps: int) -> float:
        """Upper bound of ε after so many steps."""
        if steps == 0:
            return 0.0
        plan = self._plan
        place = min(math.ceil(steps / self._stride) * self._stride, max(plan.steps, steps))
        if place not in self._known:
            if place < plan.steps:
                rough = claim(plan.sampling, plan.noise_multiplier, place, plan.delta, _COARSE)[0]
                self._known[place] = min(rough, self.at(plan.steps))
            else:
                self._known[place] = plan.epsilon(steps=place)
        return self._known[place]
