# SPDX-License-Identifier: Apache-2.0
"""Run a grid: finished cells are kept, the others run, a failed one stops nobody.

`OUT/results/` holds one record a finished or failed cell; `OUT/work/` holds checkpoints and perturbed copies.
A sweep that is killed at any instant goes on by the same command: a cell counts as finished once its record
is in place, which is one rename; a cell that was under way resumes from its run's checkpoint, and the ledger
keeps what it had spent.

Every private cell spends its own budget on the data set, and the ledger counts each. Choosing the best cell
is a further look at the data that no cell's ε covers.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from confide.errors import ConfigError, RunError
from confide.experiments.folder import FREE
from confide.experiments.sweep_cell import Task
from confide.experiments.sweep_grid import Cell
from confide.experiments.sweep_record import CellRecord

SELECTION = (
    "A choice among cells by their scores is not covered by any cell's ε; the ledger counts every cell, "
    "and their ε add up by composition."
)


class Engine(Protocol):
    """Where cells run."""

    def run(self, tasks: Iterable[Task], watcher: Watcher) -> Iterator[CellRecord]:
        """The records of the tasks, as they come."""
        ...


class Watcher(Protocol):
    """Somebody who watches a sweep."""

    def planned(self, cells: int, finished: int) -> None:
        """How many cells there are, and how many of them need not run."""
        ...

    def began(self, cell: str) -> None:
        """A cell is under way."""
        ...

    def ended(self, record: CellRecord) -> None:
        """A cell has its record."""
        ...


class Unwatched:
    """A watcher that says nothing."""

    def planned(self, cells: int, finished: int) -> None:
        """Say nothing."""

    def began(self, cell: str) -> None:
        """Say nothing."""

    def ended(self, record: CellRecord) -> None:
        """Say nothing."""


@dataclass(frozen=True)
class Places:
    """Where a sweep writes.

    Attributes:
        results: One JSON file a cell.
        work: Everything that can be deleted once the cells are finished.
    """

    results: Path
    work: Path

    @classmethod
    def below(cls, folder: Path) -> Places:
        """The usual places below a folder."""
        return cls(folder / "results", folder / "work")

    def record(self, cell: str) -> Path:
        """The record of a cell."""
        return self.results / f"{cell}.json"


def finished(cells: Iterable[Cell], places: Places) -> dict[str, CellRecord]:
    """The records that are there and are of these very cells. Damaged ones count as absent."""
    found: dict[str, CellRecord] = {}
    for cell in cells:
        path = places.record(cell.name)
        if not path.exists():
            continue
        try:
            record = CellRecord.load(path)
        except RunError:
            continue
        if record.status == "finished" and record.digest == cell.digest and _same_defaults(record, cell):
            found[cell.name] = record
    return found


def _same_defaults(record: CellRecord, cell: Cell) -> bool:
    """Whether what the cell leaves to defaults is what it was when the record was written."""
    now = _flat(cell.experiment.model_dump(mode="json", exclude={"out"}))
    then = _flat(record.experiment)
    return all(then[key] == now[key] for key in then.keys() & now.keys() if key not in FREE)


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def run_sweep(
    grid: str,
    cells: list[Cell],
    places: Places,
    engine: Engine,
    *,
    scale: str | None = None,
    watcher: Watcher | None = None,
) -> list[CellRecord]:
    """Run what has no finished record yet; the records of all cells, in their order.

    Raises:
        ConfigError: If the folder cannot be written, or another process is running this sweep.
        KeyboardInterrupt: After Ctrl-C; finished cells are kept.
    """
    watcher = watcher or Unwatched()
    with _alone(places):
        records = finished(cells, places)
        watcher.planned(len(cells), len(records))
        tasks = [Task(grid, scale, cell, places.work) for cell in cells if cell.name not in records]
        for record in engine.run(tasks, watcher):
            record.save(places.record(record.cell))
            records[record.cell] = record
            watcher.ended(record)
    return [records[cell.name] for cell in cells if cell.name in records]


@contextmanager
def _alone(places: Places) -> Iterator[None]:
    """One coordinator a folder; the kernel frees the lock of one that was killed."""
    try:
        places.work.mkdir(parents=True, exist_ok=True)
        places.results.mkdir(parents=True, exist_ok=True)
        lock = os.open(places.work / "sweep.lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise ConfigError(
            "the sweep's folder cannot be written", where=str(places.work), why=error.strerror or ""
        ) from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                "another process is running this sweep",
                where=str(places.work),
                remedy="Wait for it, or give more processes with --jobs.",
            ) from None
        yield
    finally:
        os.close(lock)
