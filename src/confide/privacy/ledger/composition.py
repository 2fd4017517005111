# SPDX-License-Identifier: Apache-2.0
# pyright: reportMissingTypeStubs=false
"""ε of everything in a data set's account."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from confide.privacy.accountants import Accountant, compose
from confide.privacy.discrete import distance, epsilon_besides
from confide.privacy.ledger.events import canonical
from confide.privacy.ledger.state import RunEntry
from confide.privacy.plan import PrivacyPlan
from confide.privacy.units import Adjacency

_MIXED_RELATIONS = (
    "Runs under add-or-remove-one and under replace-one are summed: the first count for a group of two, "
    "δ is split."
)
_MIXED_UNITS = (
    "Runs with different privacy units are summed: each part counts for a group of two of its unit, since "
    "changing one image of a patient replaces the patient."
)


@dataclass(frozen=True)
class Spent:
    """What was spent on a data set.

    Attributes:
        epsilon: ε(δ) of every step that was charged.
        reserved_epsilon: The same with every step that open runs may still take.
        delta: δ.
        accountant: "pld" or "rdp".
        steps_reserved: Steps counted against the limit.
        steps_leased: Steps charged.
        limit: ε of the limit; None without one.
        units: Whom the runs protect.
        notes: Conditions of the sum.
    """

    epsilon: float
    reserved_epsilon: float
    delta: float
    accountant: str
    steps_reserved: int
    steps_leased: int
    limit: float | None
    units: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def left(self) -> float | None:
        """ε not yet promised to any run; None without a limit. Composition is not a sum: a new run may cost
        less.
        """
        return None if self.limit is None else max(0.0, self.limit - self.reserved_epsilon)

    def to_dict(self) -> dict[str, Any]:
        """All of it, for JSON; an infinite ε is None."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__} | {"left": self.left}
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}


def charges(entries: list[RunEntry], *, reserved: bool) -> tuple[tuple[str, int], ...]:
    """(plan, steps) of each distinct plan; the same mechanism in several runs is one entry with more
    steps.
    """
    total: dict[str, int] = {}
    for entry in entries:
        steps = entry.reserved if reserved else entry.leased
        if steps:
            # Neither δ nor the planned steps nor the split between gradient and statistics changes a step's
            # event.
            fixed = {k: v for k, v in entry.plan.items() if k not in ("steps", "delta", "releases")}
            key = canonical(fixed | {"steps": 1, "delta": 0.0, "releases": []})
            total[key] = total.get(key, 0) + steps
    return tuple(sorted(total.items()))


def notes_of(parts: tuple[tuple[str, int], ...]) -> tuple[str, ...]:
    """What a reader must know about the sum."""
    import json

    plans = [json.loads(text) for text, _ in parts]
    relations = {PrivacyPlan.from_dict(p | {"delta": _least_delta(p)}).sampling.adjacency for p in plans}
    notes = [_MIXED_RELATIONS] if len(relations) > 1 else []
    return tuple(notes + ([_MIXED_UNITS] if len({p["unit"] for p in plans}) > 1 else []))


def _least_delta(plan: dict[str, Any]) -> float:
    return 0.5 / max(2, plan["units"])


def composed(parts: tuple[tuple[str, int], ...], delta: float) -> tuple[float, str]:
    """ε(δ) of all parts together, and the accountant. A single plan costs what its own guarantee says."""
    import json

    apart, plain = 0.0, dict[str, int]()
    for text, steps in parts:
        values = json.loads(text)
        integers = values.pop("integers", 0)
        if integers:
            apart += distance(integers * steps)
        key = canonical(values)
        plain[key] = plain.get(key, 0) + steps
    gaussian = tuple(sorted(plain.items()))
    epsilon = epsilon_besides(lambda left: _gaussian(gaussian, left)[0], delta, apart)
    return epsilon, _gaussian(gaussian, delta)[1]


@lru_cache(maxsize=512)
def _gaussian(parts: tuple[tuple[str, int], ...], delta: float) -> tuple[float, str]:
    """`composed`, where all noise is Gaussian."""
    import json

    if not parts:
        return 0.0, Accountant.PLD.value
    by_unit: dict[str, list[tuple[PrivacyPlan, int]]] = {}
    for text, steps in parts:
        values = json.loads(text)
        # δ of the plan plays no part; it only has to be possible.
        plan = PrivacyPlan.from_dict(values | {"delta": _least_delta(values)})
        by_unit.setdefault(plan.unit.value, []).append((plan, steps))
    if len(by_unit) == 1:
        return _one_unit(next(iter(by_unit.values())), delta)
    share = delta / len(by_unit)
    return math.fsum(_for_two(plans, share) for plans in by_unit.values()), Accountant.RDP.value


def _one_unit(plans: list[tuple[PrivacyPlan, int]], delta: float) -> tuple[float, str]:
    if len(plans) == 1:
        plan, steps = plans[0]
        accountant = "rdp" if plan.sampling.adjacency is Adjacency.REPLACE_ONE else "pld"
        return plan.epsilon(steps=steps, delta=delta), accountant
    epsilon, accountant = compose([plan.event(steps) for plan, steps in plans], delta)
    return epsilon, accountant.value


def _for_two(plans: list[tuple[PrivacyPlan, int]], delta: float) -> float:
    """ε for two units at once: bounds the replacement of one by another."""
    import dp_accounting as dpa

    from confide.privacy.accountants import rdp_curve, rdp_epsilon
    from confide.privacy.groups import group_epsilon

    added = [p.event(s) for p, s in plans if p.sampling.adjacency is Adjacency.ADD_OR_REMOVE_ONE]
    replaced = [p.event(s) for p, s in plans if p.sampling.adjacency is Adjacency.REPLACE_ONE]
    parts = bool(added) + bool(replaced)
    total = group_epsilon(rdp_curve(dpa.ComposedDpEvent(added)), 2, delta / parts) if added else 0.0
    return total + (rdp_epsilon(dpa.ComposedDpEvent(replaced), delta / parts) if replaced else 0.0)
