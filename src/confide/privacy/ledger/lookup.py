# SPDX-License-Identifier: Apache-2.0
"""Looking things up in the ledger's state; what is not there is said by name."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

from confide.errors import ConfigError, LedgerError
from confide.privacy.ledger.state import RunEntry, State
from confide.privacy.plan import PrivacyPlan


def digest(key: bytes, kind: str, text: str) -> str:
    """A keyed digest: nobody without the key can try names or files against it."""
    return hmac.new(key, f"{kind}:{text}".encode(), hashlib.sha256).hexdigest()[:16]


def find_run(state: State, key: bytes, run: str, where: Path) -> RunEntry:
    """The newest attempt of a run, by name, folder, identifier or label.

    Raises:
        LedgerError: If there is none, or several of one label.
    """
    if run in state.runs:
        return state.runs[run]
    for name in (run, str(Path(run).resolve())):
        attempts = attempts_of(state, digest(key, "run", name))
        if attempts:
            return attempts[-1]
    labelled = [entry for entry in state.runs.values() if entry.label == run]
    if len({entry.run.partition(".")[0] for entry in labelled}) == 1:
        return labelled[-1]
    raise LedgerError(
        f"knows no run {run!r}" if not labelled else f"knows several runs called {run!r}",
        where=str(where),
        remedy="List them with: confide ledger show",
    )


def attempts_of(state: State, name: str) -> list[RunEntry]:
    """Every attempt of a run, oldest first."""
    return [entry for run, entry in state.runs.items() if run.partition(".")[0] == name]


def require_known(state: State, dataset: str) -> None:
    """Refuse a data set that was never registered."""
    if dataset not in state.units:
        names = ", ".join(state.units) or "none"
        raise ConfigError(f"the ledger knows no data set {dataset!r}", remedy=f"Registered are: {names}")


def require_unit(state: State, dataset: str, plan: PrivacyPlan) -> None:
    """Refuse a plan whose unit is not the data set's."""
    if plan.unit.value != state.units[dataset]:
        raise ConfigError(
            f"the plan is per {plan.unit.value}, the data set was registered per {state.units[dataset]}",
            where=f"data set {dataset}",
            remedy="Register it with the unit of the plan.",
        )
