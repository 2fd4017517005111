# SPDX-License-Identifier: Apache-2.0
"""What the events add up to. A pure fold: the same events give the same state on every machine."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from confide.errors import LedgerError
from confide.privacy.ledger.events import Event


@dataclass
class RunEntry:
    """One run's account, in steps.

    Attributes:
        run: Keyed digest of the run's name.
        label: Last part of the run's name, for people.
        dataset: Name of the data set.
        plan: The plan, as a dictionary.
        reserved: Steps that count against the limit.
        leased: Steps charged: used, or given to a process that may use them.
        open: Whether steps may still be leased.
    """

    run: str
    label: str
    dataset: str
    plan: dict[str, Any]
    reserved: int
    leased: int = 0
    open: bool = True
    study: str | None = None
    actor: str | None = None


@dataclass
class State:
    """Data sets, limits and runs."""

    host: str = ""
    limits: dict[str, tuple[float, float]] = field(default_factory=dict[str, tuple[float, float]])
    units: dict[str, str] = field(default_factory=dict[str, str])
    runs: dict[str, RunEntry] = field(default_factory=dict[str, RunEntry])
    # Number of the last event that may have made a budget smaller.
    tightened: int = 0
    _parents: dict[str, str] = field(default_factory=dict[str, str])

    def apply(self, event: Event) -> None:
        """Take in the next event.

        Raises:
            LedgerError: If its kind is unknown: it was written by a newer version, and ignoring it might
                forget a charge.
        """
        body = json.loads(event.body)
        match event.kind:
            case "open" | "adopt":
                self.host = body["host"]
            case "register":
                self._register(body)
                self.tightened = event.seq
            case "limit":
                self.limits[body["dataset"]] = (body["epsilon"], body["delta"])
                self.tightened = event.seq
            case "reserve":
                self.runs[body["run"]] = RunEntry(
                    body["run"],
                    body["label"],
                    body["dataset"],
                    body["plan"],
                    body["steps"],
                    study=body["study"],
                    actor=body["actor"],
                )
            case "extend":
                self.runs[body["run"]].reserved += body["steps"]
            case "lease":
                self.runs[body["run"]].leased += body["steps"]
            case "pause":
                self.runs[body["run"]].leased -= body["returned"]
            case "close" | "settle":
                entry = self.runs[body["run"]]
                entry.leased -= body["returned"]
                entry.reserved, entry.open = entry.leased, False
            case "reopen":
                entry = self.runs[body["run"]]
                entry.reserved, entry.open = entry.leased + body["steps"], True
            case _:
                raise LedgerError(
                    f"event {event.seq} is of an unknown kind, {event.kind!r}",
                    remedy="Upgrade confide: a newer version wrote this ledger.",
                )

    def budget(self, dataset: str) -> str:
        """The budget a data set draws on; data sets of one name, one fingerprint or one parent share it."""
        return self._root(f"name:{dataset}")

    def members(self, dataset: str) -> list[str]:
        """Names of the data sets that share a budget."""
        root = self.budget(dataset)
        return [name for name in self.units if self.budget(name) == root]

    def limits_of(self, dataset: str) -> list[tuple[float, float]]:
        """Every (ε, δ) that holds for a data set's budget; all must hold."""
        return [self.limits[name] for name in self.members(dataset) if name in self.limits]

    def runs_on(self, dataset: str) -> list[RunEntry]:
        """Runs that draw on the same budget."""
        root = self.budget(dataset)
        return [entry for entry in self.runs.values() if self.budget(entry.dataset) == root]

    def _register(self, body: dict[str, Any]) -> None:
        self.units[body["dataset"]] = body["unit"]
        mine = f"name:{body['dataset']}"
        self._join(mine, f"data:{body['id']}")
        if body["parent"] is not None:
            self._join(mine, f"name:{body['parent']}")

    def knows(self, dataset: str, digest: str, unit: str, parent: str | None) -> bool:
        """Whether registering this changes nothing."""
        joined = self._root(f"data:{digest}") == self.budget(dataset)
        below = parent is None or self.budget(parent) == self.budget(dataset)
        return self.units.get(dataset) == unit and joined and below

    def _root(self, node: str) -> str:
        while node in self._parents:
            node = self._parents[node]
        return node

    def _join(self, first: str, second: str) -> None:
        low, high = self._root(first), self._root(second)
        if low != high:
            self._parents[low] = high
