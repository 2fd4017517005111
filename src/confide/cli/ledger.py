# SPDX-License-Identifier: Apache-2.0
"""`confide ledger`: what was spent on which data set, by which run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from confide.privacy.ledger import Ledger
    from confide.privacy.ledger.state import RunEntry

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)

File = Annotated[
    Path | None, typer.Option("--ledger", help="The ledger's file; default: CONFIDE_LEDGER, or the user's.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _open(path: Path | None, *, adopt: bool = False) -> Ledger:
    from confide.privacy.ledger import Ledger

    return Ledger.open(path, adopt=adopt)


@app.command()
def show(
    dataset: Annotated[str | None, typer.Argument(help="Only this data set.")] = None,
    delta: Annotated[float | None, typer.Option(help="State ε at this δ.")] = None,
    ledger: File = None,
    as_json: AsJson = False,
) -> None:
    """What was spent, what is reserved, what is left, and by which run."""
    with _open(ledger) as book:
        names = [dataset] if dataset is not None else book.datasets()
        spent = {name: book.spent(name, delta).to_dict() for name in names}
        runs = [_account(entry) for entry in book.runs(dataset)]
        answer: dict[str, Any] = {"ledger": str(book.path), "events": book.head.seq, "head": book.head.hash}
    if as_json:
        typer.echo(json.dumps(answer | {"datasets": spent, "runs": runs}, indent=2))
        return
    _show(answer, spent, runs)


@app.command()
def limit(
    dataset: Annotated[str, typer.Argument(help="Name of a registered data set.")],
    epsilon: Annotated[float, typer.Option(help="Limit ε of everything ever spent on it.")],
    delta: Annotated[float, typer.Option(help="δ at which ε is stated.")],
    ledger: File = None,
    as_json: AsJson = False,
) -> None:
    """Set the budget of a data set."""
    with _open(ledger) as book:
        book.limit(dataset, epsilon, delta)
        spent = book.spent(dataset)
    if as_json:
        typer.echo(json.dumps({"dataset": dataset} | spent.to_dict(), indent=2))
        return
    typer.echo(
        f"{dataset}: limit ε = {epsilon:g} at δ = {delta:g}; reserved ε ≤ {_up(spent.reserved_epsilon)}"
    )
    if spent.reserved_epsilon > epsilon:
        typer.echo("The limit is below what is reserved: nothing further is allowed.", err=True)


@app.command()
def settle(
    run: Annotated[str, typer.Argument(help="The run's name, folder or identifier.")],
    ledger: File = None,
    as_json: AsJson = False,
) -> None:
    """Close a run that crashed: what it leased stays spent, the rest becomes free."""
    with _open(ledger) as book:
        entry = _account(book.settle(run))
    if as_json:
        typer.echo(json.dumps(entry, indent=2))
        return
    typer.echo(f"{entry['label']} ({entry['run']}): settled with {entry['leased']} steps charged")


@app.command()
def export(
    path: Annotated[Path, typer.Argument(help="File to write, one event a line.")],
    ledger: File = None,
    as_json: AsJson = False,
) -> None:
    """Write every event, each with the digest of the one before."""
    with _open(ledger) as book:
        head = book.export(path)
    if as_json:
        typer.echo(json.dumps({"path": str(path), "events": head.seq, "head": head.hash}, indent=2))
        return
    typer.echo(f"{path}: {head.seq} events, head {head.hash}")


@app.command()
def verify(
    path: Annotated[Path | None, typer.Argument(help="An exported file; default: the ledger itself.")] = None,
    adopt: Annotated[
        bool, typer.Option("--adopt", help="Trust this copy on this machine from now on; recorded.")
    ] = False,
    ledger: File = None,
    as_json: AsJson = False,
) -> None:
    """Check that no event was altered, removed or put in."""
    from confide.errors import ConfigError
    from confide.privacy.ledger.events import verify_export

    if path is not None and adopt:
        raise ConfigError("an export cannot be adopted", where="--adopt", remedy="Leave out the file.")
    if path is not None:
        events, head = verify_export(path)
        where = path
    else:
        with _open(ledger, adopt=adopt) as book:
            checked = book.verify()
            events, head, where = checked.seq, checked.hash, book.path
    if as_json:
        typer.echo(json.dumps({"path": str(where), "events": events, "head": head, "whole": True}, indent=2))
        return
    typer.echo(f"{where}: {events} events, the chain is whole, head {head}")


def _account(entry: RunEntry) -> dict[str, Any]:
    values = {name: getattr(entry, name) for name in entry.__dataclass_fields__}
    return values | {"adjacency": _adjacency(entry.plan)}


def _adjacency(plan: dict[str, Any]) -> str:
    from confide.privacy.plan import PrivacyPlan

    return PrivacyPlan.from_dict(plan).sampling.adjacency.value


def _up(epsilon: float | None) -> str:
    """ε with three decimals, rounded up."""
    from decimal import ROUND_CEILING, Decimal

    if epsilon is None:
        return "∞"
    return str(Decimal(epsilon).quantize(Decimal("0.001"), rounding=ROUND_CEILING))


def _show(answer: dict[str, Any], spent: dict[str, dict[str, Any]], runs: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console.print(f"{answer['ledger']}: {answer['events']} events", markup=False, highlight=False)
    budgets = Table("data set", "unit", "spent ε ≤", "reserved ε ≤", "limit ε", "δ", "by")
    for name, s in spent.items():
        top = "none" if s["limit"] is None else f"{s['limit']:g}"
        budgets.add_row(
            name,
            ", ".join(s["units"]),
            _up(s["epsilon"]),
            _up(s["reserved_epsilon"]),
            top,
            f"{s['delta']:g}",
            s["accountant"].upper(),
        )
    console.print(budgets)
    table = Table("run", "name", "data set", "steps charged", "reserved", "state", "study")
    for r in runs:
        state = "open" if r["open"] else "closed"
        table.add_row(
            r["run"], r["label"], r["dataset"], str(r["leased"]), str(r["reserved"]), state, r["study"] or ""
        )
    console.print(table)
    for note in dict.fromkeys(note for s in spent.values() for note in s["notes"]):
        console.print(note, markup=False)
