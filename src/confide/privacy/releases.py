# SPDX-License-Identifier: Apache-2.0
"""Side statistics that a step releases beside its gradient, within the same budget.

One unit moves the gradient sum by at most C and a statistic j by at most s_j. Divide each by the standard
deviation of its noise, z_g·C and z_j·s_j: the joint vector moves by at most √(1/z_g² + Σ 1/z_j²) in noise of
unit variance. So the step is one Gaussian mechanism, and its noise multiplier z satisfies 1/z² = 1/z_g² + Σ
1/z_j².
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from confide.errors import PlanError


@dataclass(frozen=True)
class Release:
    """A side statistic released with every step, such as the mean loss.

    Attributes:
        name: Unique within a plan.
        noise_multiplier: z_j: its noise has standard deviation z_j times its own sensitivity.
    """

    name: str
    noise_multiplier: float

    def __post_init__(self) -> None:
        if not self.name:
            raise PlanError("a released statistic has no name")
        if not 0 < self.noise_multiplier < math.inf:
            raise PlanError(
                f"noise multiplier {self.noise_multiplier} of the statistic {self.name!r} is not a positive"
                " number"
            )


def gradient_share(noise_multiplier: float, releases: tuple[Release, ...]) -> float:
    """Noise multiplier left for the gradient of a step whose whole has noise multiplier z; never below z.

    Rounded up, towards privacy.

    Raises:
        PlanError: If a statistic is there twice, or the statistics leave nothing for the gradient.
    """
    if not releases:
        return noise_multiplier
    names = [release.name for release in releases]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise PlanError(f"the statistic {min(twice)!r} is released twice in a step")
    # In units of 1/z², so that no square over- or underflows.
    left = 1 - math.fsum((noise_multiplier / release.noise_multiplier) ** 2 for release in releases)
    if left <= 0:
        raise PlanError(
            "the released statistics spend the whole budget of a step",
            why=f"The step's noise multiplier is {noise_multiplier:g}; theirs together is "
            f"{noise_multiplier / math.sqrt(1 - left):g}.",
            remedy="Give the statistics more noise, for example ten times the step's.",
        )
    # The relative error of this expression is a few units in the last place.
    return noise_multiplier / math.sqrt(left) * (1 + 1e-14)
