# SPDX-License-Identifier: Apache-2.0
"""How many members of the training set any attacker can recognise: the guarantee as a picture of a hundred
people.

(ε, δ) is one point of what a mechanism promises. Its whole privacy profile δ(ε) promises more, and every
point bounds the attacker: share recognised ≤ e^ε·α + δ(ε) for each ε, at a false-alarm rate α (Kairouz, Oh &
Viswanath 2015). The minimum over the profile is what the page shows; the single point is the fallback.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from confide.privacy.guarantee import Guarantee
from confide.privacy.schemes import FullBatch, PoissonSampling

# An attacker who wrongly accuses one person in a hundred: few enough to be believed.
FALSE_ALARMS = 0.01
PEOPLE = 100
# Coarser than the claim's grid, pessimistic all the same: the picture has a hundred dots.
_GRID = 1e-3


@dataclass(frozen=True)
class Recognition:
    """Of 100 people in the training set, the most that any attacker can recognise.

    Attributes:
        share: The bound, in [false_alarms, 1].
        false_alarms: How often the attacker is wrong about people who were not in.
        whole_profile: Whether it uses the mechanism's whole privacy profile, or (ε, δ) alone.
    """

    share: float
    false_alarms: float
    whole_profile: bool

    @property
    def people(self) -> int:
        """The bound in whole people of a hundred, rounded up."""
        return min(PEOPLE, math.ceil(PEOPLE * self.share - 1e-9))


def recognised(epsilon: float, delta: float, false_alarms: float = FALSE_ALARMS) -> float:
    """The bound that (ε, δ) alone gives: min(e^ε·α + δ, 1 - e^-ε·(1 - δ - α)), at most 1.

    >>> round(recognised(3.0, 1e-5), 3), round(recognised(0.0, 0.0), 3)
    (0.201, 0.01)
    """
    if not math.isfinite(epsilon):
        return 1.0
    direct = math.exp(min(epsilon, 700.0)) * false_alarms + delta
    converse = 1 - math.exp(-epsilon) * max(0.0, 1 - delta - false_alarms)
    return min(1.0, direct, converse)


def recognition(guarantee: Guarantee, epsilon: float, delta: float, steps: int) -> Recognition:
    """The bound for a run.

    Args:
        guarantee: Says which mechanism it was.
        epsilon: ε that is claimed.
        delta: δ of that claim.
        steps: Steps that were released.
    """
    single = recognised(epsilon, delta)
    tight = _from_profile(guarantee, steps)
    return Recognition(min(single, tight), FALSE_ALARMS, tight < single)


def _from_profile(guarantee: Guarantee, steps: int, false_alarms: float = FALSE_ALARMS) -> float:
    """min over ε of e^ε·α + δ(ε), and of the converse test, over the privacy profile; infinity if none is
    known."""
    from dp_accounting.pld import PLDAccountant

    match guarantee.sampling:
        case PoissonSampling.name:
            sampling = PoissonSampling(guarantee.sampling_rate)
        case FullBatch.name:
            sampling = FullBatch()
        case _:
            return math.inf
    accountant = PLDAccountant(value_discretization_interval=_GRID)
    accountant.compose(sampling.event(guarantee.noise_multiplier, steps))
    # Beyond ln(1/α) the first bound exceeds one; the converse one may still help a little further.
    epsilons = np.linspace(0.0, 2 * math.log(1 / false_alarms), 60)
    deltas = np.array([accountant.get_delta(float(epsilon)) for epsilon in epsilons])
    direct = np.exp(epsilons) * false_alarms + deltas
    converse = 1 - np.exp(-epsilons) * np.maximum(0.0, 1 - deltas - false_alarms)
    return float(min(1.0, direct.min(), converse.min()))
