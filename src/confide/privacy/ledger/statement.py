# SPDX-License-Identifier: Apache-2.0
"""The statement of a data set's account."""

from __future__ import annotations

from confide.privacy.accountants import checked_delta
from confide.privacy.ledger.composition import Spent, charges, composed, notes_of
from confide.privacy.ledger.lookup import require_known
from confide.privacy.ledger.state import State


def statement(state: State, dataset: str, delta: float | None) -> Spent:
    """What was spent on a data set's budget, at `delta` or at the δ of its tightest limit."""
    require_known(state, dataset)
    entries, limits = state.runs_on(dataset), state.limits_of(dataset)
    limit, at = min(limits) if limits else (None, min([e.plan["delta"] for e in entries], default=1e-5))
    wanted = at if delta is None else checked_delta(delta)
    charged, promised = charges(entries, reserved=False), charges(entries, reserved=True)
    promised_epsilon, accountant = composed(promised, wanted)
    return Spent(
        epsilon=composed(charged, wanted)[0],
        reserved_epsilon=promised_epsilon,
        delta=wanted,
        accountant=accountant,
        steps_reserved=sum(entry.reserved for entry in entries),
        steps_leased=sum(entry.leased for entry in entries),
        limit=limit if wanted == at else None,
        units=tuple(sorted({entry.plan["unit"] for entry in entries} or {state.units[dataset]})),
        notes=notes_of(promised),
    )
