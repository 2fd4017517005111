# SPDX-License-Identifier: Apache-2.0
"""`confide train`: an experiment file in, a run folder and its report out."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from confide.errors import ConfigError

if TYPE_CHECKING:
    from confide.experiments.record import RunRecord


def command(
    config: Annotated[
        Path | None, typer.Argument(metavar="CONFIG.yaml", help="The experiment file.", show_default=False)
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one key of it.")
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Move a run of the same name aside and begin anew.")
    ] = False,
    no_report: Annotated[bool, typer.Option("--no-report", help="Write no report.html.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the run's record as JSON.")] = False,
    list_keys: Annotated[bool, typer.Option("--keys", help="List every key of an experiment file.")] = False,
) -> None:
    """Train a model from an experiment file, or go on with a run that was stopped."""
    if list_keys:
        from confide.experiments.keys import markdown

        typer.echo(markdown(), nl=False)
        return
    if config is None:
        raise ConfigError(
            "no experiment file is given", where="confide train", remedy="For example examples/demo.yaml."
        )
    from confide.cli.progress import Bar
    from confide.experiments.config import Experiment
    from confide.experiments.run import Silent, fit

    experiment = Experiment.load(config, overrides or ())
    with nullcontext(Silent()) if quiet or as_json else Bar() as listener:
        record = fit(experiment, listener=listener, fresh=fresh)
    page = None
    if not no_report and record.status in ("finished", "exhausted"):
        from datetime import UTC, datetime

        from confide.reports.build import Options, write_report

        page = write_report([experiment.folder], experiment.folder, Options(made=datetime.now(UTC)))[0]
    if as_json:
        typer.echo(record.to_json(), nl=False)
    else:
        _show(record, experiment.folder, page)
    raise typer.Exit(_EXIT.get(record.status, 0))


# 130 is what shells give a program that Ctrl-C ended.
_EXIT = {"exhausted": 3, "interrupted": 130, "failed": 1}
_ROWS = ("accuracy", "balanced_accuracy", "auc", "dice", "iou")


def _show(record: RunRecord, folder: Path, page: Path | None) -> None:
    """The short table at the end: what the model can do, and what it promises."""
    from rich.console import Console
    from rich.table import Table

    from confide.evaluation.metrics import METRICS
    from confide.evaluation.segmentation import SEGMENTATION_METRICS

    console = Console()
    if record.status == "interrupted":
        console.print(f"Stopped. Run the same command again to go on from step {_steps(record)}.")
    table = Table(box=None, pad_edge=False, show_header=True)
    table.add_column("test images" if "test" in record.metrics else "")
    table.add_column("value", justify="right")
    table.add_column("95% interval")
    titles = METRICS | SEGMENTATION_METRICS
    for name in _ROWS:
        measured = record.metrics.get("test", {}).get(name)
        if measured is not None:
            low, high = measured.low, measured.high
            span = f"{low:.3f} to {high:.3f}" if low is not None and high is not None else measured.note
            table.add_row(titles[name][0], "–" if measured.value is None else f"{measured.value:.3f}", span)
    base = record.baseline
    if base.majority_accuracy is not None:
        table.add_row(f"always “{base.majority_class}”", f"{base.majority_accuracy:.3f}", "accuracy")
    if table.row_count:
        console.print(table)
    console.print()
    console.print(_promise(record), markup=False, highlight=False)
    for warning in record.warnings:
        console.print(f"note: {warning}", markup=False, highlight=False)
    console.print()
    console.print(f"run     {folder}", markup=False, highlight=False, soft_wrap=True)
    if page is not None:
        console.print(f"report  {page}", markup=False, highlight=False, soft_wrap=True)


def _steps(record: RunRecord) -> int:
    return record.spent.steps if record.spent else 0


def _promise(record: RunRecord) -> str:
    """The guarantee in words and in symbols; of a run that stopped early, what was spent until then."""
    if record.guarantee is None:
        return "No privacy: this model was trained without DP and may repeat what it saw. Do not release it."
    from confide.privacy.guarantee import Guarantee, delta_text, rounded_up

    guarantee = Guarantee.from_dict(record.guarantee)
    text = f"{guarantee.in_words()}\n\n{guarantee}"
    if record.spent is not None and record.spent.steps < guarantee.steps:
        spent = record.spent
        text += (
            f"\n\nSpent so far: ε = {rounded_up(spent.epsilon)} at δ = {delta_text(spent.delta)} per "
            f"{guarantee.unit.value}, {guarantee.sampling} sampling, by {guarantee.accountant.upper()}, "
            f"{spent.steps} of {guarantee.steps} steps."
        )
    return text
