# SPDX-License-Identifier: Apache-2.0
"""`confide data list | show | fetch`: which data sets there are, and what is in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from confide.errors import ConfigError

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)


@app.command("list")
def list_sets(
    everything: Annotated[
        bool, typer.Option("--all", help="Also the sets that are not on this machine.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Which data sets confide knows, and which of them are here."""
    from confide.data.catalog import ENTRIES, find

    rows: list[dict[str, Any]] = []
    for name, info in sorted(ENTRIES.items()):
        path = find(name)
        rows.append(
            {
                "name": name,
                "here": path is not None,
                "path": None if path is None else str(path),
                "title": info.title,
                "task": info.task,
                "classes": len(info.classes),
                "units": [kind.value for kind in info.units],
                "licence": info.licence,
            }
        )
    if as_json:
        typer.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("name", "here", "classes", "protects", "licence", "title")
    shown = [row for row in rows if everything or row["here"]]
    for row in shown:
        here, units = "yes" if row["here"] else "no", " or ".join(row["units"])
        table.add_row(row["name"], here, str(row["classes"]), units, row["licence"], row["title"])
    console = Console()
    console.print(table)
    if len(shown) < len(rows):
        console.print(
            f"{len(rows) - len(shown)} more are known but not on this machine: confide data list --all"
        )


@app.command("show")
def show(
    data: Annotated[str, typer.Argument(help="A catalogue name, or the path of a file or folder.")],
    sheet: Annotated[
        Path | None, typer.Option(help="Write a contact sheet of training images to this PNG.")
    ] = None,
    unit: Annotated[str | None, typer.Option(help="Whom to protect: image, patient, lesion or tile.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """What is in a data set: images, classes and privacy units of each split, licence, remarks."""
    from confide.data.catalog import load

    splits = load(data, unit=chosen_unit(unit))
    answer = describe(splits)
    if sheet is not None:
        from confide.data.sheet import contact_sheet

        contact_sheet(splits.train, sheet)
        answer["sheet"] = str(sheet)
    if as_json:
        typer.echo(json.dumps(answer, indent=2, ensure_ascii=False))
    else:
        _print(answer)


def chosen_unit(word: str | None) -> Any:
    """The privacy unit that a word on the command line means, or None.

    Raises:
        ConfigError: If it means none.
    """
    from confide.privacy.units import PrivacyUnit

    kinds = [kind.value for kind in PrivacyUnit]
    if word is not None and word not in kinds:
        raise ConfigError(
            f"unknown unit {word!r}", where="--unit", remedy=f"Choose one of: {', '.join(kinds)}."
        )
    return None if word is None else PrivacyUnit(word)


def describe(splits: Any) -> dict[str, Any]:
    """Counts and public facts of loaded splits, ready for JSON. Identifiers are not among them."""
    import numpy as np

    info, train = splits.info, splits.train
    counts: dict[str, Any] = {}
    for images in (splits.train, splits.validation, splits.test):
        counts[images.split] = {"images": len(images), f"{images.unit.value}s": images.n_units}
        if images.targets.ndim == 1 and len(images):
            found = np.bincount(images.targets, minlength=len(info.classes)).tolist()
            counts[images.split]["classes"] = dict(zip(info.classes, found, strict=True))
    return {
        "name": info.name,
        "title": info.title,
        "task": info.task,
        "classes": list(info.classes),
        "shape": list(train.images.shape[1:]),
        "unit": train.unit.value,
        "splits": counts,
        "licence": info.licence,
        "citation": info.citation,
        "remarks": info.remarks,
        "fingerprint": splits.fingerprint,
        "declared_public": list(splits.declared_public),
    }


def _print(answer: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console.print(answer["title"], markup=False, highlight=False, style="bold")
    facts = Table(show_header=False, box=None, pad_edge=False)
    for key in ("task", "shape", "unit", "licence", "citation", "remarks", "fingerprint", "sheet"):
        if answer.get(key):
            facts.add_row(key, str(answer[key]))
    console.print(facts)
    unit = f"{answer['unit']}s"
    table = Table("split", *dict.fromkeys(["images", unit]), *answer["classes"])
    for split, counts in answer["splits"].items():
        sizes = [str(counts[key]) for key in dict.fromkeys(["images", unit])]
        table.add_row(split, *sizes, *(str(counts.get("classes", {}).get(k, "")) for k in answer["classes"]))
    console.print(table)
