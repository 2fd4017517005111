# SPDX-License-Identifier: Apache-2.0
"""A CSV or TSV that names images, labels, patients and splits."""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import PurePosixPath

from confide.data.owners import Owners
from confide.data.records import Listing, Record, find_units
from confide.data.sources import Source
from confide.errors import DataError
from confide.privacy.units import PrivacyUnit

# meaning -> the column names that are understood to have it, the first found counts
COLUMNS = {
    "image": ("image", "image_id", "id_code", "file", "filename", "path"),
    "label": ("label", "class", "grade", "diagnosis", "level", "dx"),
    "patient": ("patient", "patient_id", "patientid", "subject", "subject_id"),
    "lesion": ("lesion", "lesion_id"),
    "split": ("split", "set", "fold"),
    "mask": ("mask", "mask_file"),
}
# Columns that results may be broken down by. A list, because any other column may hold a name.
SUBGROUPS = ("sex", "gender", "age", "age_group", "site", "hospital", "scanner", "device", "view", "eye")
SUBGROUPS = (*SUBGROUPS, "ethnicity", "race", "skin_type", "localization")
_SPLIT_WORDS = {"train": "train", "training": "train", "val": "validation", "valid": "validation"}
_SPLIT_WORDS |= {"validation": "validation", "test": "test", "testing": "test"}
_SUFFIXES = ("", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".dcm")


@dataclass(frozen=True)
class Table:
    """Rows of text, and which column means what."""

    rows: list[dict[str, str]]
    columns: dict[str, str]
    where: str

    def value(self, number: int, meaning: str) -> str:
        """What a row says; "" where no column has that meaning."""
        return self.rows[number].get(self.columns.get(meaning, ""), "").strip()


def parse(data: bytes, where: str) -> Table:
    """Read a table.

    Raises:
        DataError: If it is no UTF-8 text, has no header, ragged or no rows.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"byte {error.start} is not UTF-8",
            where=where,
            remedy="Save the table as UTF-8, for example in a spreadsheet.",
        ) from None
    if "\0" in text:
        raise DataError("is not a text file", where=where)
    delimiter = max("\t;,", key=text.split("\n", 1)[0].count)
    try:
        reader = csv.DictReader(StringIO(text, newline=""), delimiter=delimiter, strict=True)
        header = list(reader.fieldnames or [])
        rows = list(reader)
    except csv.Error as error:
        raise DataError("is no readable table", where=where, why=str(error)) from None
    if not rows:
        raise DataError("the table has no rows", where=where)
    if len(set(header)) != len(header):
        raise DataError("two columns have the same name", where=where)
    for number, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            raise DataError(f"line {number} has more or fewer cells than the header", where=where)
    folded = {name.strip().lower(): name for name in header}
    columns = {
        meaning: folded[known[0]]
        for meaning, names in COLUMNS.items()
        if (known := [n for n in names if n in folded])
    }
    return Table(rows, columns, where)


def list_table(
    source: Source,
    name: str,
    folders: tuple[str, ...],
    classes: tuple[str, ...] | None,
    *,
    names: list[str] | None = None,
    skip_bad: bool = False,
    owners: Owners | None = None,
) -> Listing:
    """What a table says of the files of its source.

    Args:
        folders: Where the images may lie, tried in order.
        classes: Names of the classes 0..K-1, if known; else the labels themselves, in order.
        owners: Finds patients in file names, where the table has no column for them.

    Raises:
        DataError: A column is missing, a file is missing or named twice, a cell is empty, a label unknown.
    """
    table = parse(source.read(name), source.where(name))
    segmentation = "mask" in table.columns
    for needed in ("image", "mask" if segmentation else "label"):
        if needed not in table.columns:
            raise DataError(
                f"has no column for the {needed}",
                where=table.where,
                remedy=f"Call it one of: {', '.join(COLUMNS[needed])}.",
            )
    files = set(source.names() if names is None else names)
    below = str(PurePosixPath(name).parent)
    folders = tuple(str(PurePosixPath(below) / folder) for folder in folders)
    owners = owners or Owners(None)
    named = "patient" in table.columns
    key = named or not owners.known  # whether the table itself says whose an image is
    units = find_units(named or owners.known, "lesion" in table.columns)
    if classes is None:
        labels = [word for i in range(len(table.rows)) if (word := table.value(i, "label"))]
        classes = ("background", "foreground") if segmentation else _classes(labels, table.where)
    seen: set[str] = set()
    records: list[Record] = []
    kept: list[int] = []
    bad: list[tuple[str, str]] = []
    for i in range(len(table.rows)):
        try:
            record = _record(table, i, folders, files, classes, units[0] if key else None, seen)
            if not key:
                record = replace(record, unit=owners.of(record.name, source.where(record.name)))
            records.append(record)
            kept.append(i)
        except DataError as error:
            if not skip_bad:
                raise
            bad.append((error.where, error.what))
    columns = {column: [values[i] for i in kept] for column, values in subgroups(table).items()}
    return Listing(
        records, classes, units, "segmentation" if segmentation else "classification", columns, bad
    )


def _record(
    table: Table,
    i: int,
    folders: tuple[str, ...],
    files: set[str],
    classes: tuple[str, ...],
    unit: PrivacyUnit | None,
    seen: set[str],
) -> Record:
    """One line."""
    file = _resolve(_filled(table, i, "image"), folders, files, table, i)
    if file in seen:
        raise DataError(
            f"line {i + 2} names an image for the second time", where=table.where, remedy="Remove it."
        )
    key = "patient" if unit is PrivacyUnit.PATIENT else "lesion" if unit is PrivacyUnit.LESION else ""
    owner = _filled(table, i, key) if key else file
    split = _split(table, i)
    if "mask" in table.columns:
        mask = _resolve(_filled(table, i, "mask"), folders, files, table, i)
        found = Record(file, -1, owner, split, mask)
    else:
        found = Record(file, _label(_filled(table, i, "label"), classes, table.where, i), owner, split)
    seen.add(file)
    return found


def subgroups(table: Table) -> dict[str, list[str]]:
    """The columns that results may be broken down by."""
    found = {name.strip().lower(): name for name in table.rows[0]}
    columns = {name: [row[found[name]].strip() for row in table.rows] for name in SUBGROUPS if name in found}
    return columns | ({"age": [_band(age) for age in columns["age"]]} if "age" in columns else {})


def _band(age: str) -> str:
    """Twenty years together, so that a group has people in it; what is no number stays as it is."""
    try:
        years = float(age)
    except ValueError:
        return age
    if not 0 <= years < 150:
        return "unknown"
    return "80 and over" if years >= 80 else f"{int(years // 20) * 20} to {int(years // 20) * 20 + 19}"


def _filled(table: Table, i: int, meaning: str) -> str:
    value = table.value(i, meaning)
    if not value:
        raise DataError(
            f"line {i + 2} has no {meaning}",
            where=table.where,
            remedy=f"Fill in the {meaning} or remove the line.",
        )
    return value


def _resolve(word: str, folders: tuple[str, ...], files: set[str], table: Table, i: int) -> str:
    for folder in folders:
        for suffix in _SUFFIXES:
            path = str(PurePosixPath(folder) / f"{word}{suffix}")
            if path in files:
                return path
    raise DataError(
        f"line {i + 2} names a file that is not there", where=table.where, why=f"Looked for {word[:80]!r}."
    )


def _split(table: Table, i: int) -> str | None:
    if "split" not in table.columns:
        return None
    word = table.value(i, "split").lower()
    if word not in _SPLIT_WORDS:
        raise DataError(
            f"line {i + 2} has the split {word[:20]!r}",
            where=table.where,
            remedy="Write train, validation or test.",
        )
    return _SPLIT_WORDS[word]


def _fraction(word: str) -> bool:
    try:
        return not word.lstrip("+-").isdecimal() and float(word) is not None
    except ValueError:
        return False


def _classes(labels: list[str], where: str) -> tuple[str, ...]:
    found = set(labels)
    if len(found) > 1000:
        raise DataError(f"there are {len(found)} different labels", where=where, why="Labels name classes.")
    if any(_fraction(label) for label in found):
        raise DataError(
            "the labels are measurements, not classes", where=where, remedy="Name a class for each image."
        )
    if all(label.isdecimal() for label in found):
        return tuple(sorted(found, key=int))
    return tuple(sorted(found))


def _label(word: str, classes: tuple[str, ...], where: str, i: int) -> int:
    if word in classes:
        return classes.index(word)
    if word.isdecimal() and int(word) < len(classes):
        return int(word)
    raise DataError(
        f"line {i + 2} has the label {word[:20]!r}",
        where=where,
        why=f"Labels are 0..{len(classes) - 1} or {', '.join(classes[:9])}.",
    )
