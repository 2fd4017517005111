# SPDX-License-Identifier: Apache-2.0
# pyright: reportMissingTypeStubs=false
"""What a guarantee for one unit says about a group of k units, for example all images of one patient."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from confide.errors import PlanError

if TYPE_CHECKING:
    from dp_accounting import DpEvent


def checked_size(size: int) -> int:
    """A whole number of at least one unit."""
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise PlanError(f"a group has a whole number of units, at least one, not {size}")
    return size


def poisson_group_event(probability: float, noise_multiplier: float, steps: int, size: int) -> DpEvent:
    """T Poisson-subsampled Gaussians as a group of k units sees them.

    Bin(k, q) of its members are in a batch: a mixture of Gaussians, tighter than any conversion from ε of one
    unit: Ganesh (2024), arXiv:2401.10294.
    """
    import dp_accounting as dpa

    present = range(size + 1)
    shares = [math.comb(size, k) * probability**k * (1 - probability) ** (size - k) for k in present]
    total = math.fsum(shares)
    mixture = dpa.dp_event.MixtureOfGaussiansDpEvent(
        noise_multiplier, [float(k) for k in present], [share / total for share in shares]
    )
    return dpa.SelfComposedDpEvent(mixture, steps)


def group_epsilon(spends: Callable[[float], float], size: int, delta: float) -> float:
    """ε for a group of k units, from ε(δ) for one.

    (ε, δ') for one gives (k·ε, δ'·(e^(kε) − 1)/(e^ε − 1)) for k (Vadhan 2017, lemma 2.2). δ' is searched so
    that the group's δ is at most `delta`; the value returned satisfies it.

    Args:
        spends: δ' -> ε of one unit.
        size: k ≥ 1.
        delta: δ for the group.
    """
    if checked_size(size) == 1:
        return spends(delta)
    low, high = math.log(delta) - 600.0, math.log(delta / size)
    low = max(low, -700.0)
    best = math.inf
    for _ in range(40):
        middle = (low + high) / 2
        one = spends(math.exp(middle))
        grown = middle + _log_growth(one, size)
        if grown <= math.log(delta):
            best, low = min(best, size * one), middle
        else:
            high = middle
    return best


def _log_growth(epsilon_one: float, size: int) -> float:
    """log((e^(kε) − 1)/(e^ε − 1)), without overflow."""
    if epsilon_one == 0:
        return math.log(size)
    if not math.isfinite(epsilon_one):
        return math.inf
    return (
        (size - 1) * epsilon_one
        + math.log(-math.expm1(-size * epsilon_one))
        - math.log(-math.expm1(-epsilon_one))
    )
