# SPDX-License-Identifier: Apache-2.0
# pyright: reportMissingTypeStubs=false
"""Two upper bounds on ε(δ) of an event, by independent routes: privacy-loss distributions and Rényi DP."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from confide.errors import PlanError
from confide.privacy.units import Adjacency

if TYPE_CHECKING:
    from dp_accounting import DpEvent

GRID = 1e-4
# Above the rounding error of one step's divergence in double precision, at any order below.
_RDP_ROUNDING = 1e-13
# dp-accounting's own search for the smallest ε stops at float precision; this covers its rounding.
_SLACK = 1e-9
# Orders dense where subsampled Gaussians have their optimum.
ORDERS = (
    *(1 + x / 20 for x in range(1, 200)),
    *range(11, 64),
    *(64, 72, 80, 96, 112, 128, 160, 192, 256, 320, 384, 448, 512, 640, 768, 1024),
)
# Integer orders have a closed form: a quick upper bound, whose size tells which grid PLD needs.
SCOUT_ORDERS = (1.5, *range(2, 65), 128, 256, 512, 1024)


def checked_delta(delta: float) -> float:
    """δ in (0, 1); NaN is refused too."""
    if not 0 < delta < 1:
        raise PlanError(f"delta {delta} is outside (0, 1)", remedy="Choose at most 1/(10 n).")
    return delta


def adjacency_of(event: DpEvent) -> Adjacency:
    """The neighbouring relation under which an event's noise multipliers are stated.

    Sampling without replacement is stated under replace-one, everything else under add-or-remove-one.

    Raises:
        PlanError: If the event has parts of both kinds. dp-accounting would take a Gaussian of σ·C for one of
            sensitivity C under replace-one, where it is 2C, and understate ε.
    """
    relations = set(_relations(event))
    if len(relations) == 2:
        raise PlanError(
            "mixes replace-one and add-or-remove-one in one event",
            why="The same noise multiplier stands for sensitivity 2C under the one and C under the other.",
            remedy="Account for the two parts separately with confide.privacy.accountants.compose.",
        )
    return relations.pop() if relations else Adjacency.ADD_OR_REMOVE_ONE


def _relations(event: DpEvent) -> Iterator[Adjacency]:
    import dp_accounting as dpa

    match event:
        case dpa.ComposedDpEvent():
            for part in event.events:
                yield from _relations(part)
        case dpa.SelfComposedDpEvent() | dpa.dp_event.RepeatAndSelectDpEvent():
            yield from _relations(event.event)
        case dpa.SampledWithoutReplacementDpEvent():
            yield Adjacency.REPLACE_ONE
        case dpa.NoOpDpEvent():
            return
        case _:
            yield Adjacency.ADD_OR_REMOVE_ONE


def pld_epsilon(event: DpEvent, delta: float, grid: float = GRID) -> float:
    """Pessimistic ε(δ) of an event by privacy-loss distributions, under add-or-remove-one.

    Raises:
        PlanError: If the event has no known privacy-loss distribution.
    """
    from dp_accounting import UnsupportedEventError
    from dp_accounting.pld import PLDAccountant

    checked_delta(delta)
    accountant = PLDAccountant(value_discretization_interval=grid)
    try:
        accountant.compose(event)
    except UnsupportedEventError as error:
        raise PlanError(
            "has no privacy-loss distribution", why=str(error), remedy="Use accountant='rdp'."
        ) from None
    return _pessimistic(accountant.get_epsilon(delta))


def rdp_curve(event: DpEvent, orders: Sequence[float] = ORDERS) -> Callable[[float], float]:
    """δ -> ε of an event by Rényi DP, under the event's own relation; the composition is done once.

    Raises:
        PlanError: If RDP does not know the event, or it mixes relations.
    """
    import dp_accounting as dpa
    from dp_accounting import UnsupportedEventError
    from dp_accounting.rdp import RdpAccountant, compute_epsilon

    relation = {
        Adjacency.ADD_OR_REMOVE_ONE: dpa.NeighboringRelation.ADD_OR_REMOVE_ONE,
        Adjacency.REPLACE_ONE: dpa.NeighboringRelation.REPLACE_ONE,
    }[adjacency_of(event)]
    accountant = RdpAccountant(orders, relation)
    try:
        with _orders_excluded_quietly():
            accountant.compose(event)
    except UnsupportedEventError as error:
        raise PlanError("has no known Rényi divergence", why=str(error)) from None
    # A divergence near zero may come out as -1e-15 a step. dp-accounting would then answer ε = 0 for the
    # whole composition; lifting every step by more than its rounding keeps the answer a bound.
    divergences = [float(d) for d in accountant.rdp.clip(min=0.0) + _count(event) * _RDP_ROUNDING]

    def curve(delta: float) -> float:
        return _pessimistic(compute_epsilon(orders, divergences, checked_delta(delta))[0])

    return curve


def rdp_epsilon(event: DpEvent, delta: float, orders: Sequence[float] = ORDERS) -> float:
    """ε(δ) of an event by Rényi DP; the only accountant for sampling without replacement."""
    return rdp_curve(event, orders)(delta)


def _count(event: DpEvent) -> int:
    """How many mechanisms an event composes."""
    import dp_accounting as dpa

    match event:
        case dpa.ComposedDpEvent():
            return sum(_count(part) for part in event.events)
        case dpa.SelfComposedDpEvent():
            return event.count * _count(event.event)
        case _:
            return 1


@contextmanager
def _orders_excluded_quietly() -> Generator[None]:
    """Silences the warning of each order whose series does not converge: it is left out, which is safe."""
    logger = logging.getLogger("absl")

    def wanted(record: logging.LogRecord) -> bool:
        return "Excluding this order" not in record.getMessage()

    logger.addFilter(wanted)
    try:
        yield
    finally:
        logger.removeFilter(wanted)


def _pessimistic(value: float) -> float:
    """Never negative, never below what was computed."""
    if math.isnan(value):
        return math.inf
    return max(0.0, value) * (1 + _SLACK)
