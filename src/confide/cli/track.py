# SPDX-License-Identifier: Apache-2.0
"""`confide track`: the curves of a run in TensorBoard or MLflow."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, finished or not.")],
    to: Annotated[
        str, typer.Option(help="tensorboard (files in the run folder) or mlflow (MLFLOW_TRACKING_URI).")
    ] = "tensorboard",
) -> None:
    """Send the curves of a run to a tracker; never anything that was not released."""
    from confide.experiments.tracking import send_run

    send_run(run, to)
    typer.echo(f"sent to {to}")
    if to == "tensorboard":
        typer.echo(f"look at it with: tensorboard --logdir {run}")
