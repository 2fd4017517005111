# SPDX-License-Identifier: Apache-2.0
"""`confide sweep`: a grid of experiments, resumable cell by cell, on this machine or a Ray cluster."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

if TYPE_CHECKING:
    from confide.experiments.sweep import Engine
    from confide.experiments.sweep_record import CellRecord

_LISTED = 12


def command(
    grid: Annotated[Path, typer.Argument(metavar="GRID.yaml", help="Base experiment and axes.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder of records and checkpoints; default: sweeps/NAME.")
    ] = None,
    scale: Annotated[str | None, typer.Option(help="A scale of the grid; default: all of it.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Processes on this machine, or cells at once.")] = 1,
    engine: Annotated[str, typer.Option(help="local or ray.")] = "local",
    address: Annotated[str | None, typer.Option(help="Of the Ray cluster; default: a local one.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No live table.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print all records as JSON.")] = False,
) -> None:
    """Run every cell of a grid that is not finished yet."""
    from confide.experiments.sweep import SELECTION, Places, run_sweep
    from confide.experiments.sweep_grid import Grid

    loaded = Grid.load(grid)
    cells = loaded.cells(scale)
    folder = out if out is not None else Path("sweeps") / loaded.name
    places = Places.below(folder)
    with LiveTable(quiet or as_json) as watcher:
        records = run_sweep(
            loaded.name, cells, places, choose_engine(engine, jobs, address), scale=scale, watcher=watcher
        )
    failed = [record for record in records if record.status == "failed"]
    if as_json:
        typer.echo(json.dumps([json.loads(r.model_dump_json(by_alias=True)) for r in records], indent=1))
    else:
        console = Console()
        console.print(summary(records))
        for line in guarantees(records):
            console.print(line, markup=False, highlight=False)
        if any(record.run is not None and record.run.guarantee for record in records):
            console.print(SELECTION, markup=False, highlight=False)
        console.print(f"records  {places.results}", markup=False, highlight=False, soft_wrap=True)
    report_failures(failed)
    raise typer.Exit(1 if failed else 0)


def choose_engine(name: str, jobs: int, address: str | None) -> Engine:
    """The engine of a name.

    Raises:
        ConfigError: If there is none, or an address was given to the local one.
    """
    from confide.errors import ConfigError
    from confide.experiments.sweep_local import LocalProcesses
    from confide.experiments.sweep_ray import RayCluster

    if name not in ("local", "ray"):
        raise ConfigError(f"there is no engine {name!r}", where="--engine", remedy="Choose local or ray.")
    if name == "ray":
        return RayCluster(address, jobs=jobs if jobs > 1 else None)
    if address is not None:
        raise ConfigError("the local engine takes no address", where="--address", remedy="Add --engine ray.")
    return LocalProcesses(jobs)


def report_failures(failed: list[CellRecord]) -> None:
    """What failed and why, on stderr."""
    for record in failed:
        typer.echo(f"failed: {record.cell}: {record.error}", err=True)
    if failed:
        typer.echo("The same command runs the failed cells again; finished ones are kept.", err=True)


def summary(records: list[CellRecord]) -> Table:
    """One row a cell."""
    table = Table(box=None, pad_edge=False)
    for title, justify in (("cell", "left"), ("test score", "right"), ("seconds", "right"), ("", "left")):
        table.add_column(title, justify=justify)  # pyright: ignore[reportArgumentType]
    for record in records:
        table.add_row(record.cell, _score(record), f"{record.seconds:.0f}", record.status)
    return table


def guarantees(records: list[CellRecord]) -> list[str]:
    """Each different guarantee of the cells, in full."""
    from confide.privacy.guarantee import Guarantee

    found: dict[str, list[str]] = {}
    for record in records:
        if record.run is not None and record.run.guarantee is not None:
            found.setdefault(str(Guarantee.from_dict(record.run.guarantee)), []).append(record.cell)
    return [f"{', '.join(cells[:3])}{', …' * (len(cells) > 3)}: {text}" for text, cells in found.items()]


def _score(record: CellRecord) -> str:
    for name in ("balanced_accuracy", "accuracy", "dice"):
        if (value := record.metric(name)) is not None:
            return f"{name.replace('_', ' ')} {value:.3f}"
    return ""


class LiveTable:
    """A live table of a sweep; a line a cell where the output is no terminal."""

    def __init__(self, quiet: bool = False) -> None:
        self._console = Console(stderr=True, quiet=quiet)
        self._cells = self._kept = 0
        self._running: dict[str, float] = {}
        self._done: list[CellRecord] = []
        self._start = time.monotonic()
        self._live = Live(console=self._console, get_renderable=self.picture, refresh_per_second=2)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: Any) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def planned(self, cells: int, finished: int) -> None:
        """How much there is to do."""
        self._cells, self._kept, self._start = cells, finished, time.monotonic()
        if not self._console.is_terminal:
            self._console.print(f"{cells} cells, {finished} finished before")

    def began(self, cell: str) -> None:
        """A cell is under way."""
        self._running[cell] = time.monotonic()

    def ended(self, record: CellRecord) -> None:
        """A cell has its record."""
        self._running.pop(record.cell, None)
        self._done.append(record)
        if not self._console.is_terminal:
            said = record.error if record.status == "failed" else _score(record)
            place = f"[{self._kept + len(self._done)}/{self._cells}]"
            self._console.print(
                f"{place} {record.cell}: {record.status}, {record.seconds:.0f} s  {said}",
                markup=False,
                highlight=False,
            )

    def left(self) -> float | None:
        """Seconds left, by the mean time of the cells done so far; None before the first."""
        if not self._done:
            return None
        to_do = self._cells - self._kept - len(self._done)
        return to_do * (time.monotonic() - self._start) / len(self._done)

    def picture(self) -> Group:
        """What the live table shows now."""
        failed = sum(record.status == "failed" for record in self._done)
        left = self.left()
        head = f"{self._kept + len(self._done)} of {self._cells} cells, {len(self._running)} running, "
        head += f"{failed} failed, " + ("time left unknown" if left is None else f"about {_span(left)} left")
        table = Table(box=None, pad_edge=False, show_header=False)
        for cell, began in self._running.items():
            table.add_row("running", cell, _span(time.monotonic() - began), "")
        for record in self._done[-_LISTED:][::-1]:
            said = record.error if record.status == "failed" else _score(record)
            style = "red" if record.status == "failed" else ""
            table.add_row(record.status, record.cell, _span(record.seconds), said, style=style)
        return Group(head, table)


def _span(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
