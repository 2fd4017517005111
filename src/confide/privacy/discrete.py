# SPDX-License-Identifier: Apache-2.0
"""What discrete noise on integers costs beside the Gaussian mechanism that it stands for.

`confide.mechanisms.hardened` releases integers with discrete Gaussian noise of parameter s grid steps. With D
coordinates released over all steps together, that noise is within total variation t of a Gaussian rounded to
integers, t = √D/(33·s²): Pinsker's inequality over the relative error (x² − 1)/(24·s²) of the midpoint rule,
x in standard deviations, gives √D/(33.9·s²) and terms in 1/s⁴. A mechanism whose output is within t of an
(ε, δ)-DP one, on every data set, is (ε, δ + (1 + e^ε)·t)-DP.
"""

from __future__ import annotations

import math
from collections.abc import Callable

# Parameter of the discrete Gaussian, in grid steps.
STEPS_PER_STD = 2**24
# No candidate is kept beyond so many standard deviations; its probability, e^-64 a candidate, is counted in
# `distance`.
FARTHEST = 64


def distance(coordinates: int, steps_per_std: int = STEPS_PER_STD) -> float:
    """Upper bound on the total variation distance of that much noise from a rounded Gaussian.

    Args:
        coordinates: Numbers released over all steps: parameters and statistics, times steps.
        steps_per_std: s.
    """
    return math.sqrt(coordinates) / (33 * steps_per_std**2) + coordinates * math.exp(-FARTHEST + 2)


def epsilon_besides(spends: Callable[[float], float], delta: float, apart: float) -> float:
    """ε(δ) of a mechanism within total variation `apart` of one that spends `spends(δ')`; infinite if none.

    Whatever U is taken: if ε = spends(δ − (1 + e^U)·t) comes out at most U, it holds. U = spends(δ/2) does.
    """
    if apart == 0:
        return spends(delta)
    upper = spends(delta / 2)
    taken = (1 + math.exp(min(upper, 700.0))) * apart
    if not taken <= delta / 2:
        return math.inf
    return spends(delta - taken)
