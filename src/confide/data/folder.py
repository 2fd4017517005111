# SPDX-License-Identifier: Apache-2.0
"""A folder or archive of one's own: a table, images with masks, or one folder a class."""

from __future__ import annotations

from pathlib import PurePosixPath

from confide.data.owners import Owners, is_dicom, with_dicom_patients
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


def list_folder(
    source: Source,
    *,
    patients: str | None = None,
    classes: tuple[str, ...] | None = None,
    skip_bad: bool = False,
) -> Listing:
    """What is in a folder.

    One `.csv` or `.tsv` at the top: see `confide.data.table`. Else `images/` and `masks/` with files of the
    same names. Else `CLASS/file` or `SPLIT/CLASS/file`.

    Args:
        patients: A regular expression with one group that finds the patient's id in a file name.
        classes: Names of the classes in their order; of masks, of the values 0..K-1.
        skip_bad: Leave out and list images whose line or mask cannot be used.

    Raises:
        DataError: If it is none of these.
    """
    if classes is not None and len(set(classes)) < max(2, len(classes)):
        raise DataError("there must be at least two classes, all different", why=", ".join(classes))
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
    owners = Owners(patients)
    if tables:
        found = list_table(
            source,
            tables[0],
            ("", "images"),
            classes,
            names=names,
            skip_bad=skip_bad,
            owners=owners,
        )
        return with_dicom_patients(source, found)
    images = [name for name in names if name.lower().endswith(SUFFIXES) or is_dicom(source, name)]
    if not images:
        raise DataError(
            "holds no images", where=str(source.path), why=f"Known endings: {', '.join(SUFFIXES)}."
        )
    heads = {_head(name, top) for name in images}
    if {"images", "masks"} <= heads:
        found = list_pairs(source, images, top, owners, classes, skip_bad)
    else:
        found = list_classes(source, images, top, owners, classes)
    return with_dicom_patients(source, found)


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


def list_classes(
    source: Source,
    images: list[str],
    top: tuple[str, ...],
    owners: Owners,
    classes: tuple[str, ...] | None = None,
) -> Listing:
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
    found = tuple(sorted({p[depth] for p in parts.values()}))
    if len(found) < 2:
        raise DataError(
            "there is only one class folder", where=str(source.path), why=f"It is {', '.join(found)!r}."
        )
    if classes is not None and not set(found) <= set(classes):
        raise DataError(
            f"the folder {min(set(found) - set(classes))!r} is none of the classes",
            where=str(source.path),
            why=f"Named are {', '.join(classes)}.",
        )
    classes = classes or found
    records = [
        Record(
            name,
            classes.index(p[depth]),
            owners.of(name, source.where(name)),
            _SPLITS[p[0].lower()] if split else None,
        )
        for name, p in parts.items()
    ]
    return Listing(records, classes, find_units(owners.known, False))


def list_pairs(
    source: Source,
    images: list[str],
    top: tuple[str, ...],
    owners: Owners,
    classes: tuple[str, ...] | None,
    skip_bad: bool,
) -> Listing:
    """`images/x.*` with `masks/x.*`."""
    masks = {PurePosixPath(name).stem: name for name in images if _head(name, top) == "masks"}
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
        records.append(Record(name, -1, owners.of(name, source.where(name)), None, mask))
    units = find_units(owners.known, False)
    return Listing(records, classes or ("background", "foreground"), units, "segmentation", {}, bad)
