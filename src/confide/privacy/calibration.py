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
        PlanError: If not even noise of `LARGEST` keeps the target.
    """
    low = high = min(max(start, SMALLEST), LARGEST)
    factor = 1 + 8 * precision
    while spends(high) > target:
        if high >= LARGEST:
            raise PlanError(
                f"no noise multiplier up to {LARGEST:g} keeps ε ≤ {target:g}",
                remedy="Raise ε or δ, or take fewer steps.",
            )
        low, high, factor = high, min(high * factor, LARGEST), min(factor**2, 4.0)
    factor = 1 + 8 * precision
    while low == high or spends(low) <= target:
        if low <= SMALLEST:
            return low
        low, high, factor = max(low / factor, SMALLEST), low, min(factor**2, 4.0)
    while high > low * (1 + precision):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if spends(middle) <= target else (middle, high)
    return high
