# SPDX-License-Identifier: Apache-2.0
"""`confide report`: one self-contained HTML page for one or several runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Run folders; a run without DP is the twin.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder to write into; default: the folder of the first run.")
    ] = None,
    figures: Annotated[
        bool, typer.Option("--figures", help="Also write every figure as SVG and PNG.")
    ] = False,
    without_images: Annotated[bool, typer.Option("--without-images", help="Show no test image.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what the page says as JSON.")] = False,
) -> None:
    """One self-contained HTML page for one or several runs."""
    from datetime import UTC, datetime

    from confide.reports.build import DATA, Options, write_report

    options = Options(images=not without_images, figures=figures, made=datetime.now(UTC))
    written = write_report(runs, out if out is not None else runs[0], options)
    if as_json:
        typer.echo(next(path for path in written if path.name == DATA).read_text(encoding="utf-8"), nl=False)
        return
    for path in written[:1] if figures else written:
        typer.echo(str(path))
    if figures:
        typer.echo(f"and {len(written) - 1} more files beside it")
