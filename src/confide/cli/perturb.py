# SPDX-License-Identifier: Apache-2.0
"""`confide perturb DATA --out DIR`: a local-DP copy of a data set, with its guarantee and how private it
looks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from confide.errors import ConfigError

if TYPE_CHECKING:
    from confide.data.perturb import Perturbed
    from confide.mechanisms.local import LocalMechanism

METHODS = ("laplace", "gaussian", "pixelate", "frequencies")


def command(
    data: Annotated[str, typer.Argument(help="A catalogue name, or the path of a file or folder.")],
    out: Annotated[Path, typer.Option(help="Folder for data.npz and guarantee.json.")],
    scale: Annotated[
        float, typer.Option(help="Noise scale in units of the pixel range; larger is more private.")
    ],
    method: Annotated[str, typer.Option(help=f"One of: {', '.join(METHODS)}.")] = "laplace",
    block: Annotated[int, typer.Option(help="pixelate: side of a block.")] = 4,
    keep: Annotated[int, typer.Option(help="frequencies: coefficients kept a side.")] = 8,
    neighbourhood: Annotated[int, typer.Option(help="State ε also for this many pixels.")] = 16,
    delta: Annotated[float, typer.Option(help="gaussian and frequencies: δ.")] = 1e-5,
    label_epsilon: Annotated[
        float | None, typer.Option(help="Randomised response on labels; without it ε = ∞.")
    ] = None,
    denoise: Annotated[
        float, typer.Option(help="Smooth by so many pixels before storing; costs no ε.")
    ] = 0.0,
    size: Annotated[int | None, typer.Option(help="Side that images of a folder are resized to.")] = None,
    seed: Annotated[int | None, typer.Option(help="Repeatable noise, for research: NOT private.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Make a local-DP copy of a data set. Perturbing it again adds up ε, so do it once."""
    from confide.cli.data import progress_bar
    from confide.data.catalog import load
    from confide.data.perturb import perturb
    from confide.mechanisms.keys import RunKey
    from confide.mechanisms.local import RandomisedResponse

    mechanism = _mechanism(method, scale, block, keep, delta)
    splits = load(data, size=size)
    labels = None if label_epsilon is None else RandomisedResponse(label_epsilon, len(splits.info.classes))
    key = RunKey.from_os() if seed is None else RunKey.from_seed(seed)
    with progress_bar(as_json, "perturbing") as progress:
        result = perturb(
            splits, mechanism, out, key, labels=labels, width=denoise, m=neighbourhood, progress=progress
        )
    if as_json:
        looks = {"raw": result.raw.to_dict(), "denoised": result.denoised.to_dict()}
        answer = {"folder": str(out), "guarantee": result.guarantee.to_dict(), "looks": looks}
        typer.echo(json.dumps(answer, indent=2, ensure_ascii=False))
    else:
        _show(result)


def _mechanism(method: str, scale: float, block: int, keep: int, delta: float) -> LocalMechanism:
    from confide.mechanisms.local import GaussianPixels, LaplacePixels, LowFrequencies, Pixelate

    if method == "laplace":
        return LaplacePixels(scale)
    if method == "gaussian":
        return GaussianPixels(scale, delta)
    if method == "pixelate":
        return Pixelate(block, scale)
    if method == "frequencies":
        return LowFrequencies(keep, scale, delta)
    raise ConfigError(
        f"unknown method {method!r}", where="--method", remedy=f"Choose one of: {', '.join(METHODS)}."
    )


def _show(result: Perturbed) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    for line in result.guarantee.lines():
        console.print(line, markup=False, highlight=False)
    table = Table("how it looks", "PSNR (dB)", "SSIM", "found again", "by chance")
    for name, looks in (("as perturbed", result.raw), ("after denoising", result.denoised)):
        found = f"{looks.found:.1%} of {looks.images}"
        table.add_row(name, f"{looks.psnr:.2f}", f"{looks.ssim:.3f}", found, f"{looks.chance:.2%}")
    console.print(table)
    console.print(f"written to {result.folder}", markup=False, highlight=False)
