# SPDX-License-Identifier: Apache-2.0
"""A folder or zip of one's own: a table, images with masks, or one folder a class."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import PurePosixPath

from confide.data.records import Listing, Record, find_units
from confide.data.sources import Source
from confide.data.table import list_table
from confide.errors import DataError

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".dcm", ".npy")
_SPLITS = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}


def list_folder(source: Source, *, patients: str | None = None, skip_bad: bool = False) -> Listing:
    """What is in a folder.

    One `.csv` or `.tsv` at the top: see `confide.data.table`. Else `images/` and `masks/` with files of
    the same names.
    Else `CLASS/file` or `SPLIT/CLASS/file`.

    Args:
        patients: A regular expression with one group that finds the patient's id in a file name.
        skip_bad: Leave out and list images whose line or mask cannot be used.

    Raises:
        DataError: If it is none of these.
    """
    names = source.names()
    top = _without_wrapper(names)
    tables = [
        name for name in names if name.lower().endswith((".csv", ".tsv")) and len(_below(name, top)) == 1
    ]
    if len(tables) > 1:
        raise DataError(
            "holds more than one table",
            where=str(source.path),
            why=", ".join(tables)[:200],
            remedy="Leave one.",
        )
    if tables:
        return list_table(source, tables[0], ("", "images"), None, names=names, skip_bad=skip_bad)
    images = [name for name in names if name.lower().endswith(SUFFIXES)]
    if not images:
        raise DataError(
            "holds no images", where=str(source.path), why=f"Known endings: {', '.join(SUFFIXES)}."
        )
    heads = {_head(name, top) for name in images}
    if {"images", "masks"} <= heads:
        return list_pairs(source, images, top, patients, skip_bad)
    return _with_dicom_patients(source, list_classes(source, images, top, patients), patients)


def _with_dicom_patients(source: Source, listing: Listing, patients: str | None) -> Listing:
    """If all images are DICOM files that name their patient, the patient is the unit."""
    if patients is not None or not all(record.name.lower().endswith(".dcm") for record in listing.records):
        return listing
    from confide.data.dicom import patient_of

    found: list[str] = []
    for record in listing.records:
        try:
            found.append(patient_of(source.read(record.name), source.where(record.name)))
        except DataError:
            found.append("")  # reported, with its reason, when its pixels are read
    if not any(found):
        return listing
    # An image without an id stands for itself.
    records = [
        replace(r, unit=f"id {who}" if who else f"file {r.unit}")
        for r, who in zip(listing.records, found, strict=True)
    ]
    return replace(listing, records=records, units=find_units(True, False))


def _without_wrapper(names: list[str]) -> tuple[str, ...]:
    """Folders that everything lies in, such as the one folder of a zip; a split or `images` is none."""
    top: list[str] = []
    while names:
        heads = {
            parts[len(top)] if len(parts := PurePosixPath(name).parts) > len(top) + 1 else ""
            for name in names
        }
        head = next(iter(heads))
        if len(heads) != 1 or not head or head.lower() in (*_SPLITS, "images", "masks"):
            break
        below = {PurePosixPath(name).parts[len(top) + 1] for name in names}
        if all("." in part for part in below) and not any(
            part.lower().endswith((".csv", ".tsv")) for part in below
        ):
            break
        top.append(head)
    return tuple(top)


def _below(name: str, top: tuple[str, ...]) -> tuple[str, ...]:
    return PurePosixPath(name).parts[len(top) :]


def _head(name: str, top: tuple[str, ...]) -> str:
    return next(iter(_below(name, top)), "")


def _patient(name: str, pattern: re.Pattern[str] | None, where: str) -> str:
    if pattern is None:
        return name
    found = pattern.search(PurePosixPath(name).name)
    if found is None or not found.group(1):
        raise DataError(
            "the pattern finds no patient in the name", where=where, remedy="Mend the pattern or the name."
        )
    return found.group(1)


def _compiled(patients: str | None) -> re.Pattern[str] | None:
    if patients is None:
        return None
    try:
        pattern = re.compile(patients)
    except re.error as error:
        raise DataError(
            f"the pattern for patients is no regular expression: {error}", where=patients
        ) from None
    if pattern.groups != 1:
        raise DataError(
            "the pattern for patients needs exactly one group", where=patients, remedy="For example (\\d+)_.*"
        )
    return pattern


def list_classes(source: Source, images: list[str], top: tuple[str, ...], patients: str | None) -> Listing:
    """`CLASS/file` or `SPLIT/CLASS/file`; deeper folders belong to their class."""
    parts = {name: _below(name, top) for name in images}
    split = all(p[0].lower() in _SPLITS and len(p) >= 3 for p in parts.values())
    depth = 1 if split else 0
    loose = [name for name, p in parts.items() if len(p) < depth + 2]
    if loose:
        raise DataError(
            f"{len(loose)} images lie in no class folder",
            where=str(source.path),
            remedy="Sort them into folders, or add a table.",
        )
    classes = tuple(sorted({p[depth] for p in parts.values()}))
    if len(classes) < 2:
        raise DataError(
            "there is only one class folder", where=str(source.path), why=f"It is {', '.join(classes)!r}."
        )
    pattern = _compiled(patients)
    records = [
        Record(
            name,
            classes.index(p[depth]),
            _patient(name, pattern, source.where(name)),
            _SPLITS[p[0].lower()] if split else None,
        )
        for name, p in parts.items()
    ]
    return Listing(records, classes, find_units(pattern is not None, False))


def list_pairs(
    source: Source, images: list[str], top: tuple[str, ...], patients: str | None, skip_bad: bool
) -> Listing:
    """`images/x.*` with `masks/x.*`."""
    masks = {PurePosixPath(name).stem: name for name in images if _head(name, top) == "masks"}
    pattern = _compiled(patients)
    records: list[Record] = []
    bad: list[tuple[str, str]] = []
    for name in images:
        if _head(name, top) != "images":
            continue
        mask = masks.get(PurePosixPath(name).stem)
        if mask is None and skip_bad:
            bad.append((source.where(name), "the image has no mask"))
            continue
        if mask is None:
            raise DataError(
                "the image has no mask",
                where=source.where(name),
                remedy="Put a file of its name into masks/.",
            )
        records.append(Record(name, -1, _patient(name, pattern, source.where(name)), None, mask))
    units = find_units(pattern is not None, False)
    return Listing(records, ("background", "foreground"), units, "segmentation", {}, bad)
