# SPDX-License-Identifier: Apache-2.0
"""`confide data list | show | fetch`: which data sets there are, and what is in them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
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
                "counts": list(info.counts),
                "sizes": list(info.sizes),
                "citation": info.citation,
                "remarks": info.remarks,
                "sha256": info.sha256,
                "md5": list(info.md5),
                "source": info.url,
            }
        )
    if as_json:
        typer.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("name", "here", "images", "classes", "protects", "licence", "title")
    shown = [row for row in rows if everything or row["here"]]
    for row in shown:
        here, units = "yes" if row["here"] else "no", " or ".join(row["units"])
        counts = " / ".join(map(str, row["counts"]))
        table.add_row(row["name"], here, counts, str(row["classes"]), units, row["licence"], row["title"])
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
    size: Annotated[int | None, typer.Option(help="Side that images are resized to; default 224.")] = None,
    channels: Annotated[int | None, typer.Option(help="1 (grey) or 3 (RGB); folders only.")] = None,
    window: Annotated[str | None, typer.Option(help="DICOM window, such as lung or abdomen.")] = None,
    patients: Annotated[
        str | None, typer.Option(help="Regular expression: patient id in a file name.")
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(help="Class names in their order, with commas; of masks, of values 0, 1, ..."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of the split, where nobody has divided the data.")] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out bad files and list them.")] = False,
    duplicates: Annotated[bool, typer.Option(help="Look for near-duplicates across splits.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """What is in a data set: images, classes and privacy units of each split, licence, remarks."""
    from confide.data.catalog import load
    from confide.data.splits import SEED

    with progress_bar(as_json) as progress:
        splits = load(
            data,
            classes=tuple(classes.split(",")) if classes else None,
            seed=SEED if seed is None else seed,
            unit=chosen_unit(unit),
            size=size,
            channels=channels,
            window=window,
            patients=patients,
            skip_bad=skip_bad,
            progress=progress,
        )
    answer = describe(splits)
    if duplicates:
        from confide.data.duplicates import across_splits

        answer["duplicates"] = [found.to_dict() for found in across_splits(splits)]
    if sheet is not None:
        from confide.data.sheet import contact_sheet

        contact_sheet(splits.train, sheet)
        answer["sheet"] = str(sheet)
    if as_json:
        typer.echo(json.dumps(answer, indent=2, ensure_ascii=False))
    else:
        _print(answer)


@app.command("fetch")
def fetch(
    name: Annotated[str, typer.Argument(help="A catalogue name, see confide data list --all.")],
    size: Annotated[int | None, typer.Option(help="Side of the images: 28, 64, 128 or 224.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Download a data set from its official source; an interrupted download goes on where it stopped."""
    from confide.data.fetch import fetch as fetch_set

    with progress_bar(as_json, "downloading") as progress:
        found = fetch_set(name, size=size, progress=progress)
    if as_json:
        answer = {"name": name, "path": str(found.path), "sha256": found.sha256, "verified": found.verified}
        typer.echo(json.dumps(answer, indent=2))
        return
    typer.echo(f"{found.path}\nsha256 {found.sha256}")
    typer.echo(
        "checked against the publisher's checksum" if found.verified else "no published checksum is known"
    )


@contextlib.contextmanager
def progress_bar(quiet: bool, words: str = "reading images") -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr, gone when it is done; yields what is to be called with (done, in all)."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True, disable=quiet) as bar:
        task = bar.add_task(words, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


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
        "local_guarantee": splits.local_guarantee,
        "left_out": [{"file": file, "why": why} for file, why in splits.bad],
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
    for line in (answer["local_guarantee"] or {}).get("text", []):
        console.print(f"perturbed: {line}", markup=False, highlight=False, soft_wrap=True)
    unit = f"{answer['unit']}s"
    table = Table("split", *dict.fromkeys(["images", unit]), *answer["classes"])
    for split, counts in answer["splits"].items():
        sizes = [str(counts[key]) for key in dict.fromkeys(["images", unit])]
        table.add_row(split, *sizes, *(str(counts.get("classes", {}).get(k, "")) for k in answer["classes"]))
    console.print(table)
    for found in answer.get("duplicates", []):
        console.print(
            f"{found['images']} images of {found['second']} have a near-duplicate in {found['first']}, "
            f"{found['exact']} of them to the pixel",
            highlight=False,
        )
    if answer["left_out"]:
        console.print(f"{len(answer['left_out'])} files were left out:", highlight=False)
    for bad in answer["left_out"]:
        console.print(f"  {bad['file']}: {bad['why']}", markup=False, highlight=False, soft_wrap=True)
