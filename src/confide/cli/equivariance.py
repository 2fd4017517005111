# SPDX-License-Identifier: Apache-2.0
"""`confide equivariance MODEL`: how exactly a steerable network follows its group."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from confide.errors import DataError, InputError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from confide.equivariant import Element
    from confide.equivariant.measure import LayerError


def command(
    model: Annotated[
        str, typer.Argument(help="resnet9 or another name, package.module:factory, or the folder of a run.")
    ],
    group: Annotated[str, typer.Option(help="Group of a model given by name.")] = "C4",
    channels: Annotated[int, typer.Option(help="Input channels, for a model given by name.")] = 1,
    side: Annotated[int, typer.Option(help="Side of the picture in pixels, where no image is given.")] = 28,
    image: Annotated[
        Path | None, typer.Option(help="Picture to turn; default: a drawn one, so that no patient is shown.")
    ] = None,
    step: Annotated[float, typer.Option(help="Degrees from one turn to the next.")] = 45.0,
    out: Annotated[Path | None, typer.Option(help="Folder for errors.png, fields.png and basis.png.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """How exactly a steerable network follows its group, layer by layer and angle by angle."""
    from confide.equivariant.measure import equivariance_errors

    built = _load(model, group, channels)
    picture = _picture(image, side, _channels(built))
    errors = equivariance_errors(built, picture, _turns(step, mirrors=True))
    written = [] if out is None else _draw(built, picture, errors, out, step)
    if as_json:
        typer.echo(json.dumps({"errors": [asdict(e) for e in errors], "pictures": written}, indent=2))
        return
    typer.echo(f"{'layer':34} {'group':7} {'exact turns':>12} {'other turns of the group':>25}")
    for name in dict.fromkeys(e.layer for e in errors):
        rows = [e for e in errors if e.layer == name]
        exact = max((e.error for e in rows if e.promised and e.angle % 90 == 0), default=math.nan)
        other = max((e.error for e in rows if e.promised and e.angle % 90 != 0), default=None)
        shown = "–" if other is None else f"{other:.2g}"
        typer.echo(f"{name:34} {rows[0].group:7} {exact:12.1e} {shown:>25}")
    for path in written:
        typer.echo(path)


def _load(model: str, group: str, channels: int) -> nn.Module:
    from confide.cli.inspect import load
    from confide.models import registry

    if ":" not in model and model.lower() in registry.names():
        return registry.build(model, in_channels=channels, classes=2, group=group)
    return load(model, channels, 2)


def _channels(model: nn.Module) -> int:
    from confide.equivariant import SteerableConv2d

    convolutions = [m for m in model.modules() if isinstance(m, SteerableConv2d)]
    if not convolutions:
        raise InputError(
            "the model has no steerable convolution", remedy="Build it with group: C4, D4, SO2 or O2."
        )
    return convolutions[0].in_type.size


def _picture(image: Path | None, side: int, channels: int) -> Tensor:
    import numpy as np
    import torch

    from confide.equivariant.pictures import blobs

    if image is None:
        return blobs(channels, side)
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(image) as opened:
            pixels = np.asarray(opened.convert("RGB" if channels == 3 else "L"), dtype=np.float32) / 255
    except (OSError, UnidentifiedImageError) as error:
        raise DataError(str(error), where=str(image), remedy="Give a PNG or JPEG file.") from error
    planes = torch.from_numpy(pixels.copy()).reshape(*pixels.shape[:2], -1).permute(2, 0, 1)
    least = min(planes.shape[1:])
    return planes[None, :, :least, :least].expand(1, channels, -1, -1).contiguous()


def _turns(step: float, *, mirrors: bool) -> list[Element]:
    from confide.equivariant import Element

    if not 1 <= step <= 360:
        raise InputError(f"--step cannot be {step:g}", remedy="Give degrees from 1 to 360.")
    count = max(1, int(360 / step))
    turns = [Element(math.radians(step * i)) for i in range(count)]
    return turns + ([Element(t.angle, mirrored=True) for t in turns] if mirrors else [])


def _draw(model: nn.Module, picture: Tensor, errors: list[LayerError], out: Path, step: float) -> list[str]:
    from confide.equivariant import SteerableConv2d
    from confide.equivariant.pictures import draw_basis, draw_errors, draw_fields

    convolutions = [(n, m) for n, m in model.named_modules() if isinstance(m, SteerableConv2d)]
    name, layer = convolutions[min(1, len(convolutions) - 1)]
    turns = [t for t in _turns(step, mirrors=True) if layer.out_type.group.has(t)][:8]
    figures = {
        "errors": draw_errors(errors),
        "fields": draw_fields(model, picture, name, turns),
        "basis": draw_basis(layer),
    }
    out.mkdir(parents=True, exist_ok=True)
    for key, figure in figures.items():
        figure.savefig(out / f"{key}.png", dpi=110)
    return [str(out / f"{key}.png") for key in figures]
