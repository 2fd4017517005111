# SPDX-License-Identifier: Apache-2.0
"""`confide export`: a trained model as ONNX, TorchScript or safetensors, checked to compute the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from confide.errors import ConfigError


def command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder with a trained model.")],
    format: Annotated[str, typer.Option(help="onnx, torchscript or safetensors.")] = "onnx",
    out: Annotated[Path | None, typer.Option(help="File to write; default: in the run folder.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write a trained model for use elsewhere."""
    from confide.experiments.deploy import Format, export_run, metadata
    from confide.experiments.record import load_run

    kinds = [kind.value for kind in Format]
    if format not in kinds:
        raise ConfigError(
            f"unknown format {format!r}", where="--format", remedy=f"Choose one of: {', '.join(kinds)}."
        )
    loaded = load_run(run)
    path = export_run(loaded, Format(format), out)
    if as_json:
        answer = {"path": str(path), "format": format, "bytes": path.stat().st_size, **metadata(loaded)}
        typer.echo(json.dumps(answer, indent=2))
        return
    typer.echo(str(path))
    typer.echo(
        "It takes pixels in [0, 1] and gives probabilities; its answers were checked against the model."
    )
    if loaded.record.guarantee is None:
        typer.echo("This model was trained without privacy.", err=True)
