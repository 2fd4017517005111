# SPDX-License-Identifier: Apache-2.0
"""`confide predict`: what a trained model says about images, and where it looked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from confide.errors import RunError

if TYPE_CHECKING:
    from confide.reports.prediction import Prediction


def command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder with a trained classifier.")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGES...", help="PNG, JPEG or TIFF files.")],
    out: Annotated[Path | None, typer.Option(help="Folder for saliency overlays (PNG).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Classify images with a trained run."""
    from confide.experiments.record import load_run
    from confide.reports.prediction import predict_images, save_overlays

    loaded = load_run(run)
    if loaded.record.data.task != "classification":
        raise RunError("is a segmentation run", where=str(run), remedy="confide predict classifies images.")
    found = predict_images(loaded, images, saliency=out is not None)
    written = save_overlays(found, images, out) if out is not None else []
    calibrated = loaded.record.calibration is not None
    if as_json:
        rows = [
            {
                "image": str(path),
                "class": one.name,
                "probability": one.probability,
                "calibrated": calibrated,
                "probabilities": one.probabilities,
                "overlay": str(overlay) if overlay is not None else None,
            }
            for path, one, overlay in zip(images, found, written or [None] * len(images), strict=True)
        ]
        typer.echo(json.dumps(rows, indent=2))
        return
    _show(images, found, calibrated)
    for path in written:
        typer.echo(str(path))


def _show(images: list[Path], found: list[Prediction], calibrated: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("image", overflow="fold")
    table.add_column("class")
    table.add_column("probability" if calibrated else "probability (not calibrated)", justify="right")
    for path, one in zip(images, found, strict=True):
        table.add_row(path.name, one.name, f"{one.probability:.3f}")
    console = Console()
    console.print(table)
    console.print("No approval for use on patients.", style="dim")
