# SPDX-License-Identifier: Apache-2.0
"""The least noise that keeps ε below a target. The search rounds towards privacy."""

from __future__ import annotations

import math
from collections.abc import Callable

from confide.errors import PlanError

LARGEST = 1e6
SMALLEST = 1e-3


def calibrate(
    spends: Callable[[float], float], target: float, *, start: float = 1.0, precision: float = 1e-4
) -> float:
    """Smallest noise multiplier, to a relative precision, that is seen to spend at most `target`.

    `spends(σ)` must fall with σ. The value returned was evaluated: `spends(result) <= target` always holds.

    Args:
        start: A guess; a good one saves evaluations.

    Raises:
        PlanError: If no noise below `LARGEST` keeps the target.
    """
    factor = 1 + 8 * precision
    low = high = start
    while spends(high) > target:
        low, high, factor = high, high * factor, factor**2
        if high > LARGEST:
            raise PlanError(
                f"no noise multiplier below {LARGEST:g} keeps ε ≤ {target:g}",
                remedy="Raise ε or δ, or take fewer steps.",
            )
    factor = 1 + 8 * precision
    while low == high or spends(low) <= target:
        low, high, factor = low / factor, low, factor**2
        if low < SMALLEST:
            return high
    while high > low * (1 + precision):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if spends(middle) <= target else (middle, high)
    return high
