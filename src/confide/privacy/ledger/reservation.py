# SPDX-License-Identifier: Apache-2.0
"""A run's reservation: steps are leased from it in blocks, each block on disk before its first step."""

from __future__ import annotations

from typing import Any

from confide.errors import BudgetExhaustedError, LedgerError
from confide.privacy.ledger.budget import refuse_if_over
from confide.privacy.ledger.state import RunEntry, State
from confide.privacy.ledger.store import Store

_LARGEST_BLOCK = 64
_USUAL_BLOCK = 8


def default_block(steps: int) -> int:
    """Steps in a lease, which is what a crash can cost: one in a hundred of the plan, within 8 and 64, and at
    most a tenth of a small plan.

    A lease waits for the disk; see benchmarks/ledger.py.
    """
    return max(1, min(_LARGEST_BLOCK, max(_USUAL_BLOCK, steps // 100), steps // 10))


class Reservation:
    """The right of one process to take steps of one plan. Made by `Ledger.reserve` and `Ledger.resume`.

    Call `charge` before the noise of every step (or `lease` blocks oneself), and `close` at the end of the
    run or `pause` when it will be resumed. A process that dies does neither: its last lease stays spent.

    Args:
        store: The open ledger.
        run: The run's identifier.
        block: Steps in a lease.
    """

    def __init__(self, store: Store, run: str, block: int) -> None:
        self._store = store
        self.run = run
        self.block = block
        entry = store.state.runs[run]
        self._charged = entry.leased
        self._spare = 0
        self._by_hand = 0
        self._checked = 0
        self._done = False

    @property
    def charged(self) -> int:
        """Steps of the run that count as spent, those before a resume included: the number of the next
        step.
        """
        return self._charged

    @property
    def entry(self) -> RunEntry:
        """The run's account."""
        return self._store.state.runs[self.run]

    def charge(self, step: int) -> None:
        """Charge one step. Returns only once a crash could not undo it.

        Args:
            step: Its number; a step that is taken again is charged again.

        Raises:
            BudgetExhaustedError: If every reserved step is charged, or a limit was lowered meanwhile.
            LedgerError: If the charge could not be written. The step must not be taken.
        """
        if self._spare == 0:
            self._spare = self._lease(self.block)
            if self._spare == 0:
                raise BudgetExhaustedError(
                    f"step {step + 1} is not covered: all {self.entry.reserved} reserved steps are charged",
                    where=f"run {self.run}",
                    remedy="A plan with more steps needs a reservation of its own.",
                )
        self._spare -= 1
        self._charged += 1

    def lease(self, steps: int) -> range:
        """Charge a block of steps at once: their numbers, fewer than asked at the end of the plan.

        Raises:
            BudgetExhaustedError, LedgerError: As for `charge`.
        """
        if steps < 1:
            raise LedgerError(f"a lease of {steps} steps is not possible")
        first = self._charged
        got = self._lease(steps)
        if got == 0:
            self.charge(first)
        self._charged += got
        self._by_hand += got
        return range(first, first + got)

    def mark(self) -> dict[str, Any]:
        """Where the chain stands, for a checkpoint: `Ledger.resume` refuses a ledger that never was there."""
        return {
            "seq": self._store.head.seq,
            "hash": self._store.head.hash,
            "run": self.run,
            "charged": self._charged,
        }

    def pause(self) -> None:
        """Give back what was leased and not charged; the rest of the plan stays reserved for
        `Ledger.resume`.
        """
        if self._done or self._spare == 0:
            return
        with self._store.transaction() as state:
            if self._still_open(state):
                self._store.append("pause", {"run": self.run, "returned": self._spare})
        self._spare = 0

    def close(self, steps_used: int | None = None) -> None:
        """End the run: what was reserved and not charged becomes free.

        Args:
            steps_used: Steps of the run whose output exists, those before a resume included. It matters after
                `lease`
                only: `charge` has counted. Charged steps are never given back, whatever is said here.

        Raises:
            LedgerError: If more steps were used than charged.
        """
        if self._done:
            return
        with self._store.transaction() as state:
            entry = state.runs[self.run]
            returned = self._spare
            if steps_used is not None:
                unused = self._charged - steps_used
                returned += max(0, min(self._by_hand, unused))
            if self._still_open(state):
                self._store.append("close", {"run": self.run, "returned": returned})
        self._done = True
        if steps_used is not None and steps_used > entry.leased:
            raise LedgerError(
                f"{steps_used} steps were used but only {entry.leased} charged",
                where=f"run {self.run}",
                why="Steps were taken that no charge covers: the guarantee of this run does not hold.",
                remedy="Do not publish its model; report this as a defect.",
            )

    def _still_open(self, state: State) -> bool:
        """False if somebody settled the run meanwhile: then nothing is given back."""
        return state.runs[self.run].open

    def _lease(self, steps: int) -> int:
        """Commit a lease; returns how many steps it has, 0 at the end of the reservation."""
        if self._done:
            raise LedgerError("the reservation was closed", where=f"run {self.run}")
        with self._store.transaction() as state:
            entry = state.runs[self.run]
            if not entry.open:
                raise LedgerError(
                    "the run was closed or settled by somebody else",
                    where=f"run {self.run}",
                    remedy="Resume it, which reserves anew, or start another run.",
                )
            if state.tightened > self._checked:
                # A limit was set, or two data sets turned out to share a budget, since the reservation was
                # made.
                refuse_if_over(state, entry.dataset, None)
                self._checked = state.tightened
            got = min(steps, entry.reserved - entry.leased)
            if got > 0:
                self._store.append("lease", {"run": self.run, "steps": got})
            return max(got, 0)
