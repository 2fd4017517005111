# SPDX-License-Identifier: Apache-2.0
"""`confide reproduce`: a published table or figure, our figures beside theirs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from confide.experiments.reproduce import Reproduced


def command(
    name: Annotated[
        str,
        typer.Argument(help="For example hoelzl-table1; `list` names all, `pages` writes their pages anew."),
    ],
    scale: Annotated[str, typer.Option(help="smoke: does it run; quick: a small version; paper.")] = "smoke",
    out: Annotated[Path, typer.Option(help="Where results/, docs/results/ and runs/ are.")] = Path(),
    only: Annotated[list[str] | None, typer.Option(help="Only cells whose name contains this.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Processes on this machine, or cells at once.")] = 1,
    engine: Annotated[str, typer.Option(help="local or ray.")] = "local",
    address: Annotated[str | None, typer.Option(help="Of the Ray cluster.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No live table.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the records as JSON.")] = False,
) -> None:
    """Run a published table or figure again, at some scale, and set our figures beside theirs."""
    from confide.cli.sweep import LiveTable, choose_engine, report_failures
    from confide.errors import ConfigError
    from confide.experiments import reproduce

    if name == "list":
        for known in reproduce.names():
            typer.echo(f"{known:20} {reproduce.load(known).title}")
        return
    if name == "pages":
        for known in reproduce.names():
            typer.echo(str(reproduce.write_page(reproduce.load(known), out)))
        return
    if scale not in reproduce.SCALES:
        raise ConfigError(
            f"there is no scale {scale!r}", where="--scale", remedy=f"Choose {', '.join(reproduce.SCALES)}."
        )
    with LiveTable(quiet or as_json) as watcher:
        found = reproduce.reproduce(
            name, scale, out, choose_engine(engine, jobs, address), watcher, tuple(only or ())
        )
    failed = [record for record in found.records if record.status == "failed"]
    if as_json:
        records = [json.loads(record.model_dump_json(by_alias=True)) for record in found.records]
        typer.echo(json.dumps(records, indent=1))
    else:
        _show(found)
    report_failures(failed)
    raise typer.Exit(1 if failed else 0)


def _show(found: Reproduced) -> None:
    from rich.console import Console
    from rich.table import Table

    from confide.experiments.claims import verdicts
    from confide.experiments.reproduce_page import data_table, guarantee_table, tables

    console = Console()
    console.print(f"{found.grid.title}. {found.grid.source}.", markup=False, highlight=False)
    text = found.grid.scales[found.scale].text
    console.print(f"{found.scale} scale: {text}", markup=False, highlight=False)
    parts = [
        *tables(found.grid, found.records),
        guarantee_table(found.records),
        data_table(found.records),
        verdicts(found.grid, {found.scale: found.records}) if found.scale != "smoke" else None,
    ]
    for part in parts:
        if part is None:
            continue
        table = Table(title=part.title or None, title_justify="left", pad_edge=False)
        for column in part.header:
            table.add_column(column, overflow="fold")
        for row in part.rows:
            table.add_row(*(cell.replace("[", r"\[") for cell in row))
        console.print(table)
        if part.note:
            console.print(part.note, markup=False, highlight=False)
    console.print("Figures in brackets are the published ones.", markup=False, highlight=False)
    for remark in found.grid.remarks:
        console.print(f"- {remark}", markup=False, highlight=False)
    console.print(f"records  {found.places.results}", markup=False, highlight=False, soft_wrap=True)
    if found.page is not None:
        console.print(f"page     {found.page}", markup=False, highlight=False, soft_wrap=True)
