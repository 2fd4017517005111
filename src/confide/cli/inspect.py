# SPDX-License-Identifier: Apache-2.0
"""`confide inspect MODEL`: what keeps a model from being trained privately."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from confide.errors import InputError, RunError

if TYPE_CHECKING:
    from torch import nn

    from confide.surgery.findings import Inspection


def command(
    model: Annotated[
        str, typer.Argument(help="A name such as resnet9, package.module:factory, or the folder of a run.")
    ],
    shape: Annotated[
        str | None,
        typer.Option(help="Shape of one input, such as 3,64,64; default: guessed from the layers."),
    ] = None,
    channels: Annotated[int, typer.Option(help="Input channels, for a model given by name.")] = 3,
    classes: Annotated[int, typer.Option(help="Classes, for a model given by name.")] = 2,
    group: Annotated[
        str | None, typer.Option(help="Group of a steerable model given by name: C4, D4, SO2, O2.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Option of a model given by name, such as widths=[4,8,16]."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """What keeps a model from being trained privately, and the remedy. Exit code 1: something must change."""
    import torch

    from confide.surgery.inspect import examine

    built = load(model, channels, classes, model_options(settings or (), group))
    found = examine(built, None if shape is None else torch.randn(3, *_sizes(shape)))
    if as_json:
        answer = {
            "model": model,
            "input_shape": found.input_shape,
            "blocked": found.blocked,
            "findings": [finding.to_dict() for finding in found.findings],
        }
        typer.echo(json.dumps(answer, indent=2))
    else:
        _show(model, found)
    if found.blocked:
        raise typer.Exit(1)


def model_options(settings: Sequence[str], group: str | None = None) -> dict[str, Any]:
    """Options of a model from key=value, as in the `model` section of an experiment; values are YAML.

    Raises:
        InputError: If one is no key=value, or the group is given twice.
    """
    import yaml

    found: dict[str, Any] = {} if group is None else {"group": group}
    for setting in settings:
        key, equals, text = (part.strip() for part in setting.partition("="))
        if not equals or not key:
            raise InputError(f"{setting!r} is not key=value", where="--set", remedy="Write widths=[4,8,16].")
        if key in found:
            raise InputError(f"{key} is given twice", where="--set")
        try:
            found[key] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise InputError(f"{text!r} is not a value", where=f"--set {setting}") from None
    return found


def load(name: str, channels: int, classes: int, options: dict[str, Any] | None = None) -> nn.Module:
    """The model that a word on the command line means.

    Raises:
        InputError: If it means none, or options are given for one that is not built by name.
    """
    coded, trained = ":" in name, (Path(name) / "run.json").is_file()
    if options and (coded or trained):
        raise InputError(
            f"{', '.join(options)} cannot be set",
            where=name,
            why="Its own code builds that model" if coded else "A run keeps the options of its training",
            remedy="Leave out --group and --set.",
        )
    if coded:
        return _from_code(name)
    if trained:
        return _from_run(Path(name))
    from confide.models.registry import build

    return build(name, in_channels=channels, classes=classes, **(options or {}))


def _from_code(name: str) -> nn.Module:
    from torch import nn

    module_name, _, attribute = name.partition(":")
    # As `python -m` does, so that a module beside the caller is found.
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found: Any = import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(str(error), where=name, remedy="Write package.module:factory.") from error
    if isinstance(found, nn.Module):
        return found
    if not callable(found):
        raise InputError(f"{attribute} is neither a model nor a function that makes one", where=name)
    try:
        made = found()
    except TypeError as error:
        raise InputError(
            f"{attribute}() raised: {error}",
            where=name,
            remedy="Name a function without arguments that returns the model.",
        ) from error
    if not isinstance(made, nn.Module):
        raise InputError(f"{attribute}() returns {type(made).__name__}, no torch.nn.Module", where=name)
    return made


def _from_run(folder: Path) -> nn.Module:
    from confide.models.registry import build

    try:
        record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        name, options = record["model"]["name"], dict(record["model"]["options"])
        classes = options.pop("classes", None) or len(record["data"]["classes"])
        channels = options.pop("in_channels", None) or record["data"].get("channels", 3)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"run.json does not describe a model: {error!r}", where=str(folder)) from error
    return build(name, in_channels=channels, classes=classes, **options)


def _sizes(shape: str) -> tuple[int, ...]:
    try:
        sizes = tuple(int(part) for part in shape.replace("x", ",").split(","))
    except ValueError:
        sizes = ()
    if not sizes or min(sizes) < 1:
        raise InputError(
            f"{shape!r} is no shape", where="--shape", remedy="Write it like 3,64,64, without the batch."
        )
    return sizes


def _show(model: str, found: Inspection) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if found.findings:
        table = Table("class", "layer", "kind", "reason", "remedy")
        for finding in found.findings:
            cells = (
                finding.severity.value,
                finding.layer or "(model)",
                finding.kind,
                finding.reason,
                finding.remedy,
            )
            table.add_row(*(Text(cell) for cell in cells))
        console.print(table)
    else:
        console.print(
            f"{model}: nothing keeps it from being trained privately.", markup=False, highlight=False
        )
    if found.input_shape is None:
        words = "Only the types of its layers were looked at: no input was found that fits. Give --shape."
    else:
        words = f"It was run on a batch of shape {found.input_shape}."
    console.print(words, markup=False, highlight=False)
