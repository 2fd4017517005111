# SPDX-License-Identifier: Apache-2.0
"""`confide audit RUN`: attack a finished run and hold what that shows against what it claims."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from confide.audit.membership import Membership
    from confide.audit.run import AuditResult


def command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a finished run.")],
    steps: Annotated[
        int, typer.Option(min=0, help="Training steps under attack at most; 0: as many as the run had.")
    ] = 200,
    canaries: Annotated[int, typer.Option(min=12, help="Made-up units in each attack.")] = 1000,
    confidence: Annotated[float, typer.Option(help="Of all bounds together.")] = 0.95,
    black_box: Annotated[
        bool,
        typer.Option(
            "--black-box",
            help="Also attack a finished model by mislabelled images. That charges the ledger.",
        ),
    ] = False,
    membership: Annotated[
        bool,
        typer.Option(
            "--membership",
            help="Instead, try to tell the run's training units from held-out ones. Not private: it reads the"
            " training data, its result is shown and kept nowhere.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Empirical lower bound on ε against the claim. Exit code 1: the claim is refuted."""
    from confide.experiments.audited import AuditedRun

    opened = AuditedRun.open(run)
    if membership:
        _membership(opened.membership(), as_json)
        return
    result = opened.audit(
        steps=steps or None,
        canaries=canaries,
        confidence=confidence,
        black_box=black_box,
        progress=None if as_json else _progress,
    )
    if as_json:
        typer.echo(json.dumps(result.to_dict(), indent=2))
    else:
        _show(result)
    if result.refuted:
        raise typer.Exit(1)


def _progress(done: int, steps: int) -> None:
    """A line that is written over, on a terminal only."""
    from rich.console import Console

    console = Console(stderr=True)
    if console.is_terminal:
        console.print(
            f"step {done} of {steps} under attack", end="\r" if done < steps else "\n", highlight=False
        )


def _show(result: AuditResult) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from confide.audit.run import rounded_down
    from confide.privacy.guarantee import delta_text, rounded_up

    console = Console()
    delta = delta_text(result.claim.delta)
    table = Table(
        box=None,
        pad_edge=False,
        title=f"ε at δ = {delta} per {result.claim.unit.value}",
        title_justify="left",
    )
    table.add_column("attack")
    table.add_column("steps", justify="right")
    table.add_column("at least", justify="right")
    table.add_column("claimed", justify="right")
    table.add_column("confidence", justify="right")
    table.add_column("rests on")
    for bound in result.bounds:
        table.add_row(
            bound.method,
            str(bound.steps),
            rounded_down(bound.epsilon),
            rounded_up(bound.claim),
            f"{100 * bound.confidence:.4g}%",
            Text(bound.rests_on),
        )
    console.print(table)
    console.print()
    console.print(result.verdict, markup=False, highlight=False)


def _membership(found: Membership, as_json: bool) -> None:
    from rich.console import Console

    if as_json:
        typer.echo(json.dumps(found.to_dict(), indent=2))
        return
    Console().print(found.in_words(), markup=False, highlight=False)
