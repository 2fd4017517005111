# SPDX-License-Identifier: Apache-2.0
"""Run one cell of a grid to its record. Stopped at any instant, it goes on where its run stopped."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from confide.errors import ConfideError
from confide.experiments.sweep_grid import Cell
from confide.experiments.sweep_record import CellRecord, Point


@dataclass(frozen=True)
class Task:
    """A cell with everything that a process needs to run it.

    Attributes:
        grid: Name of its grid.
        scale: Of the grid; None for a whole grid of one's own.
        work: Folder that checkpoints and perturbed copies go to.
    """

    grid: str
    scale: str | None
    cell: Cell
    work: Path


def run_cell(task: Task) -> CellRecord:
    """The record of a cell; whatever it raises becomes the record of a failed cell.

    A keyboard interrupt passes: it stops the sweep, not one cell.
    """
    started, clock = datetime.now(UTC), time.perf_counter()
    found: dict[str, Any] = {}
    error = ""
    try:
        found = _TASKS[task.cell.options.task](task)
    except ConfideError as refused:
        error = str(refused)
    except MemoryError:
        error = "out of memory"
    except Exception as unexpected:  # a failed cell never stops the rest
        error = f"{type(unexpected).__name__}: {unexpected}"
    return describe_cell(task, started, time.perf_counter() - clock, error, found)


def describe_cell(
    task: Task, started: datetime, seconds: float, error: str, found: Mapping[str, Any] | None = None
) -> CellRecord:
    """A record; without an error the cell is finished."""
    cell = task.cell
    return CellRecord(
        grid=task.grid,
        scale=task.scale,
        cell=cell.name,
        labels=cell.labels,
        digest=cell.digest,
        status="failed" if error else "finished",
        error=_without_paths(error, task.work),
        started=started,
        seconds=round(seconds, 3),
        machine=f"{os.cpu_count()}-core {platform.machine()}",
        experiment=cell.experiment.model_dump(mode="json", exclude={"out"}),
        options=cell.options.model_dump(mode="json", exclude_defaults=True),
        **(found or {}),
    )


def _train(task: Task) -> dict[str, Any]:
    """Train, measure, and collect what is worth keeping of the run folder."""
    from confide.experiments import history
    from confide.experiments.run import fit
    from confide.experiments.sweep_measures import Measuring, at_end

    cell = task.cell
    # The digest in the folder's name: another experiment of the same labels never resumes this one.
    experiment = cell.experiment.model_copy(update={"out": task.work / "runs", "name": folder_name(cell)})
    extra: dict[str, Any] = {}
    if cell.options.perturb is not None:
        from confide.experiments.sweep_perturb import perturbed_copy

        copy = perturbed_copy(experiment.data, cell.options.perturb, task.work / "perturbed")
        experiment = experiment.model_copy(
            update={"data": experiment.data.model_copy(update={"name": str(copy.folder), "size": None})}
        )
        extra["local_dp"] = copy.record
    listener = Measuring(cell.options.measures, experiment.folder)
    record = fit(experiment, listener=listener, command=["confide", "sweep"])
    if record.status not in ("finished", "exhausted"):
        raise KeyboardInterrupt
    lines = history.load(experiment.folder).evaluations
    curve = [Point.model_validate(line.model_dump(exclude={"event"})) for line in lines]
    figures = at_end(cell.options.measures, experiment.folder, listener.collected())
    run = record.model_copy(update={"name": cell.name, "command": []})
    return {"run": run, "curve": curve, "figures": figures | extra, "outside": listener.outside}


def _benchmark(task: Task) -> dict[str, Any]:
    from confide.experiments.sweep_benchmark import benchmark

    return {"figures": {"benchmark": benchmark(task.cell.experiment, task.cell.options.benchmark)}}


def _account(task: Task) -> dict[str, Any]:
    from confide.experiments.sweep_accounting import accounting

    return {"figures": accounting(task.cell.experiment, task.cell.options)}


def _looks(task: Task) -> dict[str, Any]:
    from confide.experiments.sweep_accounting import looks

    return {"figures": looks(task.cell.experiment, task.cell.options, task.work)}


_TASKS = {"train": _train, "account": _account, "looks": _looks, "benchmark": _benchmark}


def folder_name(cell: Cell) -> str:
    """The run folder of a cell."""
    return f"{cell.name}-{cell.digest[:8]}"


def _without_paths(text: str, work: Path) -> str:
    """Records are published; where somebody's files lie is not."""
    for folder, word in ((work.resolve(), "WORK"), (work, "WORK"), (Path.home(), "~")):
        text = text.replace(str(folder), word)
    return text
