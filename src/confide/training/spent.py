# SPDX-License-Identifier: Apache-2.0
"""ε after any number of steps of a plan, cheap enough for a progress bar, and never too low."""

from __future__ import annotations

import math

from confide.privacy.plan import PrivacyPlan


class SpentCurve:
    """Upper bound of ε spent after s steps.

    ε is computed at 1/`points` of the plan, 2/`points`, …, and a step in between is given the next of these values:
    ε grows with the steps, so the answer is an upper bound. After the last step it is exact.
    """

    def __init__(self, plan: PrivacyPlan, points: int = 24) -> None:
        self._plan = plan
        self._stride = max(1, math.ceil(plan.steps / points))
        self._known: dict[int, float] = {}

    def at(self, steps: int) -> float:
        """Upper bound of ε after so many steps."""
        if steps == 0:
            return 0.0
        place = min(math.ceil(steps / self._stride) * self._stride, max(self._plan.steps, steps))
        if place not in self._known:
            self._known[place] = self._plan.epsilon(steps=place)
        return self._known[place]
