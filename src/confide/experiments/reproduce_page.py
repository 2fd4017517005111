# SPDX-License-Identifier: Apache-2.0
"""The page of a published table or figure: our figures beside theirs, and what was run at which scale."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from confide.experiments.claims import verdicts
from confide.experiments.sweep import SELECTION
from confide.experiments.sweep_grid import Grid
from confide.experiments.sweep_record import CellRecord
from confide.experiments.tables import Rendered, TableSpec, render

UNCHARGED = (
    "Each cell's ε is its own: they add up by composition, and a choice among cells by their scores is "
    "covered by none. Data and seeds are published, so nobody is protected by these runs and no ledger was "
    "charged."
)
_SCALE_TITLES = {"quick": "Quick scale", "paper": "Paper scale"}


def page(grid: Grid, records: Mapping[str, Sequence[CellRecord]]) -> str:
    """The Markdown page; every figure in it is of one of the records."""
    parts = [f"# {grid.name}", f"{grid.title}.", f"Source: {grid.source}.", ""]
    parts += ["A figure in brackets is the published one; a dash means not run, or not applicable.", ""]
    parts += [f"- {remark}" for remark in grid.remarks]
    parts.append("")
    for scale, found in records.items():
        parts += _scale(grid, scale, found)
    claims = verdicts(grid, records)
    if claims is not None:
        parts += ["## Claims", "", _judged_at(records), "", claims.markdown()]
    if grid.checklist:
        rows = [[str(item["item"]), item["what"], item["where"]] for item in grid.checklist]
        parts += ["## Checklist", "", Rendered("", ["item", "what", "here"], rows).markdown()]
    return "\n".join(parts).rstrip() + "\n"


def tables(grid: Grid, records: Sequence[CellRecord]) -> list[Rendered]:
    """All tables of a grid that have at least one figure."""
    specs = [TableSpec.model_validate(values) for values in grid.tables]
    return [table for spec in specs if (table := render(grid, spec, records)) is not None]


def guarantee_table(records: Sequence[CellRecord]) -> Rendered | None:
    """Every different guarantee of the cells, with all that it is conditioned on."""
    from confide.privacy.guarantee import delta_text, rounded_up

    rows: dict[tuple[str, ...], int] = {}
    for record in records:
        g = record.run.guarantee if record.run else None
        if g is None or record.run is None:
            continue
        row = (
            record.run.data.name,
            f"{rounded_up(g['epsilon'])}",
            delta_text(g["delta"]),
            f"{g['unit']}, n = {g['units']}",
            g["adjacency"],
            g["accountant"].upper(),
            f"{g['sampling']}, q = {g['sampling_rate']:.4g}",
            f"{math.floor(g['noise_multiplier'] * 1e4) / 1e4:.4f}",
            str(g["steps"]),
            record.run.seed_policy,
        )
        rows[row] = rows.get(row, 0) + 1
    if not rows:
        return None
    header = ["data", "ε", "δ", "unit", "neighbours", "accountant", "sampling", "σ", "steps T", "randomness"]
    header.append("cells")
    note = SELECTION if _charged(records) else UNCHARGED
    return Rendered("Guarantees", header, [[*row, str(count)] for row, count in rows.items()], note)


def _charged(records: Sequence[CellRecord]) -> bool:
    """Whether any cell was charged to a ledger."""
    sections = [record.experiment.get("privacy") for record in records]
    return any(isinstance(section, dict) and section.get("ledger") for section in sections)


def data_table(records: Sequence[CellRecord]) -> Rendered | None:
    """Which data the cells used."""
    rows: dict[str, list[str]] = {}
    for record in records:
        if record.run is not None:
            data = record.run.data
            counts = " / ".join(str(data.rows.get(split, 0)) for split in ("train", "validation", "test"))
            rows[data.fingerprint] = [data.title, counts, data.licence, f"`{data.fingerprint[:12]}`"]
    header = ["data", "train / validation / test images", "licence", "fingerprint"]
    return Rendered("Data", header, list(rows.values())) if rows else None


def _scale(grid: Grid, scale: str, records: Sequence[CellRecord]) -> list[str]:
    cells = len(grid.cells(scale))
    parts = [f"## {_SCALE_TITLES[scale]}", "", grid.scales[scale].text.strip(), ""]
    command = f"`confide reproduce {grid.name} --scale {scale}`"
    if not records:
        return [*parts, f"Not run yet: 0 of {cells} cells. {command}", ""]
    hours = sum(record.seconds for record in records) / 3600
    machines = ", ".join(sorted({record.machine for record in records}))
    parts += [f"Run: {len(records)} of {cells} cells, {hours:.2f} h in all on {machines}. {command}", ""]
    found = [*tables(grid, records), guarantee_table(records), data_table(records)]
    parts += [table.markdown() for table in found if table is not None]
    outside = sorted({text for record in records for text in record.outside})
    return [*parts, *(f"Outside the mechanism: {text}.\n" for text in outside)]


def _judged_at(records: Mapping[str, Sequence[CellRecord]]) -> str:
    ran = [scale for scale, found in records.items() if found]
    if not ran:
        return "Nothing has been run yet."
    words = "One seed decides little."
    if len(ran) > 1:
        words = "The largest scale that has run what a claim needs decides. " + words
    if "quick" in ran:
        words += (
            " Runs at quick scale are far shorter than the published ones, and refute nothing about those."
        )
    return words
