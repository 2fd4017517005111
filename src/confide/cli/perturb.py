# SPDX-License-Identifier: Apache-2.0
"""`confide perturb DATA --out DIR`: a local-DP copy of a data set, with its guarantee and how private it
looks."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from confide.errors import ConfigError

if TYPE_CHECKING:
    from confide.data.perturb import Perturbed
    from confide.mechanisms.local import LocalMechanism

METHODS = ("laplace", "gaussian", "pixelate", "frequencies", "wavelets")


def command(
    data: Annotated[str, typer.Argument(help="A catalogue name, or the path of a file or folder.")],
    out: Annotated[Path, typer.Option(help="Folder for data.npz and guarantee.json.")],
    scale: Annotated[
        float | None, typer.Option(help="Noise scale in units of the pixel range; larger is more private.")
    ] = None,
    epsilon: Annotated[
        float | None,
        typer.Option(
            help="Instead of --scale: ε of the whole image (pixelate: of the neighbourhood); noise is found."
        ),
    ] = None,
    method: Annotated[str, typer.Option(help=f"One of: {', '.join(METHODS)}.")] = "laplace",
    block: Annotated[int, typer.Option(help="pixelate: side of a block.")] = 4,
    keep: Annotated[int, typer.Option(help="frequencies, wavelets: coefficients kept a side.")] = 7,
    neighbourhood: Annotated[int, typer.Option(help="State ε also for this many pixels.")] = 16,
    delta: Annotated[float, typer.Option(help="gaussian, frequencies, wavelets: δ.")] = 1e-5,
    after_normalisation: Annotated[
        bool,
        typer.Option(
            "--after-normalisation",
            help="laplace: scale is that of pixels normalised by the set's public constants; ε is larger.",
        ),
    ] = False,
    label_epsilon: Annotated[
        float | None, typer.Option(help="Randomised response on labels; without it ε = ∞.")
    ] = None,
    denoise: Annotated[
        float, typer.Option(help="Smooth by so many pixels before storing; costs no ε.")
    ] = 0.0,
    unit: Annotated[str | None, typer.Option(help="Whom to protect: image, patient, lesion or tile.")] = None,
    size: Annotated[int | None, typer.Option(help="Side that images of a folder are resized to.")] = None,
    channels: Annotated[int | None, typer.Option(help="1 (grey) or 3 (RGB); folders only.")] = None,
    window: Annotated[str | None, typer.Option(help="DICOM window, such as lung or abdomen.")] = None,
    patients: Annotated[
        str | None, typer.Option(help="Regular expression: patient id in a file name.")
    ] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out bad files and count them.")] = False,
    seed: Annotated[int | None, typer.Option(help="Repeatable noise, for research: NOT private.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Make a local-DP copy of a data set. Perturbing it again adds up ε, so do it once."""
    from confide.cli.data import chosen_unit, progress_bar
    from confide.data.catalog import load
    from confide.data.perturb import perturb
    from confide.mechanisms.keys import RunKey
    from confide.mechanisms.local import RandomisedResponse

    settings = Settings(method, block, keep, delta, neighbourhood)
    _check(settings, scale, epsilon, after_normalisation)
    with progress_bar(as_json) as progress:
        splits = load(
            data,
            unit=chosen_unit(unit),
            size=size,
            channels=channels,
            window=window,
            patients=patients,
            skip_bad=skip_bad,
            progress=progress,
        )
    shape = splits.train.images.shape[1:]
    std = splits.info.std if after_normalisation else None
    mechanism = (
        settings.mechanism(scale, std) if epsilon is None else settings.for_budget(epsilon, shape, std)
    )
    labels = None if label_epsilon is None else RandomisedResponse(label_epsilon, len(splits.info.classes))
    key = RunKey.from_os() if seed is None else RunKey.from_seed(seed)
    with progress_bar(as_json, "perturbing") as progress:
        result = perturb(
            splits, mechanism, out, key, labels=labels, width=denoise, m=neighbourhood, progress=progress
        )
    if as_json:
        looks = {"raw": result.raw.to_dict(), "denoised": result.denoised.to_dict()}
        answer = {"folder": str(out), "guarantee": result.guarantee.to_dict(), "looks": looks}
        typer.echo(json.dumps({**answer, "left_out": len(splits.bad)}, indent=2, ensure_ascii=False))
    else:
        _show(result, len(splits.bad))


@dataclass(frozen=True)
class Settings:
    """What the options say of the mechanism."""

    method: str
    block: int
    keep: int
    delta: float
    neighbourhood: int

    def mechanism(self, scale: float | None, std: tuple[float, ...] | None) -> LocalMechanism:
        """The mechanism with noise of this scale."""
        from confide.mechanisms import local

        assert scale is not None
        match self.method:
            case "laplace":
                return local.LaplacePixels(scale, std)
            case "gaussian":
                return local.GaussianPixels(scale, self.delta)
            case "pixelate":
                return local.Pixelate(self.block, scale)
            case "frequencies":
                return local.LowFrequencies(self.keep, scale, self.delta)
            case _:
                return local.CoarseWavelets(self.keep, scale, self.delta)

    def for_budget(
        self, epsilon: float, shape: tuple[int, ...], std: tuple[float, ...] | None
    ) -> LocalMechanism:
        """The least noise whose ε of the image, of pixelate that of the neighbourhood, is within the
        budget."""
        from confide.mechanisms.local import calibrated

        if len(shape) != 3:
            raise ConfigError("only 2-D images can be perturbed", why=f"These have shape {shape}.")
        size = (shape[0], shape[1], shape[2])
        m = min(self.neighbourhood, size[1] * size[2])

        def spent(mechanism: LocalMechanism) -> float:
            stated = mechanism.epsilon(size, m=m)
            return stated.neighbourhood if self.method == "pixelate" else stated.image

        return calibrated(lambda scale: self.mechanism(scale, std), spent, epsilon)


def _check(settings: Settings, scale: float | None, epsilon: float | None, after_normalisation: bool) -> None:
    if settings.method not in METHODS:
        raise ConfigError(
            f"unknown method {settings.method!r}",
            where="--method",
            remedy=f"Choose one of: {', '.join(METHODS)}.",
        )
    if (scale is None) == (epsilon is None):
        raise ConfigError("give one of --scale and --epsilon", where="confide perturb")
    if after_normalisation and settings.method != "laplace":
        raise ConfigError("goes with --method laplace only", where="--after-normalisation")


def _show(result: Perturbed, left_out: int) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    for line in result.guarantee.lines():
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if left_out:
        console.print(f"{left_out} files could not be used and were left out", highlight=False)
    table = Table("how it looks", "PSNR (dB)", "SSIM", "found again", "by chance")
    for name, looks in (("as stored", result.raw), ("after denoising", result.denoised)):
        found = f"{looks.found:.1%} of {looks.images}"
        table.add_row(name, f"{looks.psnr:.2f}", f"{looks.ssim:.3f}", found, f"{looks.chance:.2%}")
    console.print(table)
    console.print("These are computed from the originals and are no part of the guarantee.", highlight=False)
    console.print(f"written to {result.folder}", markup=False, highlight=False, soft_wrap=True)
