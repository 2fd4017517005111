# SPDX-License-Identifier: Apache-2.0
"""Published tables and figures, run again: one YAML file each, one way to run them all.

Records go to `OUT/results/NAME/SCALE/`, and the page `OUT/docs/results/NAME.md` is made of whatever records
lie there, so that no figure of a page is without its record.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from confide.errors import ConfigError, RunError
from confide.experiments.sweep import Engine, Places, Watcher, run_sweep
from confide.experiments.sweep_grid import Grid
from confide.experiments.sweep_record import CellRecord

SCALES = ("smoke", "quick", "paper")


def names() -> tuple[str, ...]:
    """The tables and figures that there are."""
    folder = resources.files("confide.experiments") / "published"
    return tuple(sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml")))


def load(name: str) -> Grid:
    """The grid of a published table or figure.

    Raises:
        ConfigError: If there is none of that name.
    """
    if name not in names():
        raise ConfigError(
            f"there is no published table or figure {name!r}", remedy=f"Choose one of: {', '.join(names())}."
        )
    with resources.as_file(resources.files("confide.experiments") / "published" / f"{name}.yaml") as path:
        return Grid.load(path)


@dataclass(frozen=True)
class Reproduced:
    """What a reproduction gave, and where it was written."""

    grid: Grid
    scale: str
    records: list[CellRecord]
    places: Places
    page: Path | None


def reproduce(
    name: str,
    scale: str,
    out: Path,
    engine: Engine,
    watcher: Watcher | None = None,
    only: Sequence[str] = (),
) -> Reproduced:
    """Run a published table or figure, and write its records and page.

    Args:
        only: Run only cells whose name contains one of these; the page shows what has been run so far.

    Raises:
        ConfigError: If the name or the scale is unknown, or the folder cannot be written.
    """
    grid = load(name)
    places = places_of(name, scale, out)
    cells = grid.cells(scale)
    chosen = [cell for cell in cells if not only or any(word in cell.name for word in only)]
    if not chosen:
        raise ConfigError(f"no cell of {name} contains {' or '.join(only)}", where="--only")
    records = run_sweep(name, chosen, places, engine, scale=scale, watcher=watcher)
    # Smoke is a check that everything runs; its figures mean nothing and get no page.
    written = None if scale == "smoke" else write_page(grid, out)
    return Reproduced(grid, scale, records, places, written)


def write_page(grid: Grid, out: Path) -> Path:
    """Make the page of a table or figure of the records that are there; runs nothing.

    Raises:
        RunError: If a record is damaged, or of a cell that the grid no longer describes.
    """
    from confide.experiments.reproduce_page import page

    path = out / "docs" / "results" / f"{grid.name}.md"
    text = page(grid, committed(grid, out))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def places_of(name: str, scale: str, out: Path) -> Places:
    """Records where they can be committed, everything else below `runs`."""
    return Places(out / "results" / name / scale, out / "runs" / "reproduce" / name / scale)


def committed(grid: Grid, out: Path) -> dict[str, list[CellRecord]]:
    """scale -> the finished records that lie in the results folder, in the order of the grid's cells."""
    found: dict[str, list[CellRecord]] = {}
    for scale in SCALES[1:]:
        if scale not in grid.scales:
            continue
        records: list[CellRecord] = []
        for cell in grid.cells(scale):
            path = places_of(grid.name, scale, out).record(cell.name)
            if path.exists():
                record = CellRecord.load(path)
                if record.digest != cell.digest:
                    raise RunError(
                        "is of another cell than the grid describes now",
                        where=str(path),
                        remedy=f"Run: confide reproduce {grid.name} --scale {scale}",
                    )
                if record.status == "finished":
                    records.append(record)
        found[scale] = records
    return found
