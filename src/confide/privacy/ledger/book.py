# SPDX-License-Identifier: Apache-2.0
"""The ledger as its users see it."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any, Self

from confide.errors import ConfigError, LedgerError
from confide.privacy.accountants import checked_delta
from confide.privacy.ledger.budget import affordable_steps, compose_beforehand, entry_of, refuse_if_over
from confide.privacy.ledger.composition import Spent
from confide.privacy.ledger.events import Event
from confide.privacy.ledger.head import Head
from confide.privacy.ledger.lookup import attempts_of, digest, find_run, require_known, require_unit
from confide.privacy.ledger.places import default_path
from confide.privacy.ledger.reservation import Reservation, default_block
from confide.privacy.ledger.secret import sync_folder
from confide.privacy.ledger.state import RunEntry
from confide.privacy.ledger.statement import statement
from confide.privacy.ledger.store import Store
from confide.privacy.plan import PrivacyPlan
from confide.privacy.units import PrivacyUnit


class Ledger:
    """The budget of data sets and what runs reserved and spent of it. A context manager: leaving it pauses
    its runs.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> plan = PrivacyPlan(noise_multiplier=2.0, sampling_rate=0.01, steps=100, delta=1e-5, units=5000)
    >>> with Ledger.open(Path(folder) / "ledger.sqlite") as ledger:
    ...     ledger.register("chest", "fingerprint of the file", plan.unit)
    ...     ledger.limit("chest", 3.0, 1e-5)
    ...     reservation = ledger.reserve("chest", plan, run="first")
    ...     for step in range(10):
    ...         reservation.charge(step)  # then, and only then, draw the step's noise
    ...     reservation.close()
    ...     ledger.spent("chest").steps_leased
    10
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._reservations: list[Reservation] = []

    @classmethod
    def open(cls, path: Path | str | None = None, *, adopt: bool = False, mounts: str | None = None) -> Self:
        """Open a ledger, made if missing.

        Args:
            path: Its file; default: CONFIDE_LEDGER, else the user's data folder.
            adopt: Trust this copy on this machine, although the chain's head or the machine differ. Recorded.
            mounts: Text of a mount table in place of the kernel's.

        Raises:
            LedgerError: If it cannot be trusted: altered, older than its head, on a shared disk, of another
                machine.
        """
        return cls(Store(Path(path) if path is not None else default_path(), adopt=adopt, mounts=mounts))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def path(self) -> Path:
        """The ledger's file."""
        return self._store.path

    @property
    def head(self) -> Head:
        """Number and digest of the last event; note it elsewhere to prove later that nothing before it
        changed.
        """
        return self._store.head

    def close(self) -> None:
        """Give unused leases back and let the file go."""
        try:
            for reservation in self._reservations:
                reservation.pause()
        except LedgerError:
            pass  # it is broken: nothing is given back, which is the safe side
        finally:
            self._store.close()

    def register(
        self, dataset: str, fingerprint: str, unit: PrivacyUnit, *, parent: str | None = None
    ) -> None:
        """Make a data set known. Registering it again changes nothing.

        Data sets with the same name, or the same fingerprint, or one the parent of the other, draw on one
        budget: another name or another byte does not open a fresh one.

        Args:
            dataset: Its name; stored, so it must not identify anybody.
            fingerprint: Digest of its content; only a keyed digest of it is stored.
            parent: Name of a data set that it overlaps.
        """
        if not dataset:
            raise ConfigError("a data set needs a name")
        known_as, kind = self._digest("data", fingerprint), PrivacyUnit(unit).value
        with self._store.transaction() as state:
            if parent is not None:
                require_known(state, parent)
            if not state.knows(dataset, known_as, kind, parent):
                self._store.append(
                    "register", {"dataset": dataset, "id": known_as, "unit": kind, "parent": parent}
                )

    def limit(self, dataset: str, epsilon: float, delta: float) -> None:
        """Set the budget of a data set. A limit below what is spent is recorded, and refuses everything
        further.
        """
        if not 0 <= epsilon < math.inf:
            raise ConfigError(f"a limit of ε = {epsilon} is not possible")
        checked_delta(delta)
        with self._store.transaction() as state:
            require_known(state, dataset)
            if state.limits.get(dataset) != (epsilon, delta):
                self._store.append("limit", {"dataset": dataset, "epsilon": epsilon, "delta": delta})

    def reserve(
        self,
        dataset: str,
        plan: PrivacyPlan,
        *,
        run: str,
        study: str | None = None,
        actor: str | None = None,
        block: int | None = None,
    ) -> Reservation:
        """Reserve all steps of a plan, before any data are read.

        A run of the same name that is still open is settled first: it keeps what it leased.

        Args:
            run: Name or folder; its last part and a keyed digest are stored.
            study: The search this run is a trial of.
            actor: Who answers for the run; optional, stored as given.
            block: Steps in a lease; default: about 1 % of the plan.

        Raises:
            BudgetExhaustedError: If everything reserved so far and this plan together exceed the limit.
        """
        name = self._digest("run", run)
        # Composing takes up to a second; done once before the lock is taken, it is remembered inside.
        draft = entry_of(name, Path(run).name, dataset, plan, study, actor)
        compose_beforehand(self._store.snapshot(), dataset, draft)
        with self._store.transaction() as state:
            require_known(state, dataset)
            require_unit(state, dataset, plan)
            attempts = attempts_of(state, name)
            draft.run = f"{name}.{len(attempts) + 1}"
            # What an open run of this name has not leased will be free; count it so before anything is
            # written.
            stale = [entry for entry in attempts if entry.open]
            kept = [(entry, entry.reserved) for entry in stale]
            for entry in stale:
                entry.reserved = entry.leased
            try:
                refuse_if_over(state, dataset, draft)
            finally:
                for entry, reserved in kept:
                    entry.reserved = reserved
            for entry in stale:
                self._store.append("settle", {"run": entry.run, "returned": 0})
            self._store.append(
                "reserve",
                {
                    "run": draft.run,
                    "label": draft.label,
                    "dataset": dataset,
                    "plan": draft.plan,
                    "steps": plan.steps,
                    "adjacency": plan.sampling.adjacency.value,
                    "study": study,
                    "actor": actor,
                },
            )
        return self._opened(draft.run, plan.steps, block)

    def resume(
        self,
        run: str,
        plan: PrivacyPlan | None = None,
        *,
        mark: dict[str, Any] | None = None,
        replay: int = 0,
        block: int | None = None,
    ) -> Reservation:
        """Continue a run. What it leased stays charged: the ledger outranks the checkpoint.

        Args:
            run: As given to `reserve`.
            plan: What it will do; refused if it differs from what was reserved.
            mark: `Reservation.mark()` of the checkpoint; refused if this ledger never was there.
            replay: Charged steps that will be taken again: so many more are reserved, within the limit.

        Raises:
            LedgerError: If the run is unknown, the plan differs, or the ledger is older than the checkpoint.
            BudgetExhaustedError: If the limit does not allow the rest.
        """
        with self._store.transaction() as state:
            entry = find_run(state, self._store.key, run, self.path)
            if plan is not None and plan.to_dict() != entry.plan:
                raise LedgerError(
                    "the plan differs from the one that was reserved",
                    where=f"run {entry.label}",
                    why="Its charge would not fit its steps.",
                    remedy="Resume with the same plan, or start a new run.",
                )
            if mark is not None:
                self._refuse_foreign(mark, entry)
            # A settled run gave back what it had not leased; its rest is reserved anew.
            rest = entry.plan["steps"] - entry.leased if not entry.open else 0
            more = max(0, rest) + max(0, replay)
            if more:
                # A plan of the further steps only: what the run already counts is in the account.
                extra = RunEntry(entry.run, entry.label, entry.dataset, entry.plan, more)
                refuse_if_over(state, entry.dataset, extra)
            if not entry.open or more:
                self._store.append("extend" if entry.open else "reopen", {"run": entry.run, "steps": more})
        return self._opened(entry.run, entry.plan["steps"], block)

    def settle(self, run: str) -> RunEntry:
        """Close a run that crashed: its leases stay spent, what was never leased becomes free."""
        with self._store.transaction() as state:
            entry = find_run(state, self._store.key, run, self.path)
            if entry.open:
                self._store.append("settle", {"run": entry.run, "returned": 0})
            return entry

    def runs(self, dataset: str | None = None) -> list[RunEntry]:
        """Accounts of all runs, or of those on one data set's budget."""
        state = self._store.snapshot()
        return list(state.runs.values()) if dataset is None else state.runs_on(dataset)

    def datasets(self) -> list[str]:
        """Names of the registered data sets."""
        return list(self._store.snapshot().units)

    def affordable(self, dataset: str, plan: PrivacyPlan) -> int:
        """How many steps of a plan the limit still allows."""
        state = self._store.snapshot()
        require_known(state, dataset)
        return affordable_steps(state, dataset, entry_of("", "", dataset, plan, None, None))

    def spent(self, dataset: str, delta: float | None = None) -> Spent:
        """What was spent on a data set's budget.

        Args:
            delta: δ to state ε at; default: the tightest limit's, else the smallest of the runs'.
        """
        return statement(self._store.snapshot(), dataset, delta)

    def export(self, path: Path | str) -> Head:
        """Write every event as a line of JSON, each with the digest of the one before. Returns the head."""
        target = Path(path)
        fresh = target.with_name(f".{target.name}.{os.getpid()}.new")
        events = self._store.events()
        try:
            with fresh.open("w", encoding="utf-8") as file:
                file.writelines(f"{event.line()}\n" for event in events)
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(target)
            sync_folder(target.resolve().parent)
        except OSError as error:
            fresh.unlink(missing_ok=True)
            raise LedgerError("cannot be written", where=str(target), why=str(error)) from None
        return self.head

    def verify(self) -> Head:
        """Read and check the whole chain again.

        Raises:
            LedgerError: If an event was altered, removed or put in.
        """
        self._store.events()
        return self.head

    def events(self) -> list[Event]:
        """Every event, checked."""
        return self._store.events()

    def _opened(self, run: str, steps: int, block: int | None) -> Reservation:
        reservation = Reservation(self._store, run, block or default_block(steps))
        self._reservations.append(reservation)
        return reservation

    def _digest(self, kind: str, text: str) -> str:
        return digest(self._store.key, kind, text)

    def _refuse_foreign(self, mark: dict[str, Any], entry: RunEntry) -> None:
        seen = mark.get("run") == entry.run and self._store.holds(Head(mark["seq"], mark["hash"]))
        if not seen or entry.leased < mark["charged"]:
            raise LedgerError(
                "the checkpoint was written under a newer or another ledger",
                where=str(self.path),
                why="Steps that the checkpoint contains are not charged here.",
                remedy="Put the newest ledger back, or start a new run.",
            )
