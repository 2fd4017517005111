# SPDX-License-Identifier: Apache-2.0
"""How published data sets lay out their files, one function each."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import PurePosixPath

from confide.data.folder import list_folder
from confide.data.records import Listing, Record
from confide.data.sources import Source
from confide.data.table import list_table, parse, subgroups
from confide.errors import DataError
from confide.privacy.units import PrivacyUnit

_KERMANY = re.compile(r"^(person\d+|(?:NORMAL2-)?IM-\d+)")
_KERMANY_SPLITS = {"train": "train", "val": "validation", "test": "test"}
_GRADES = ("none", "mild", "moderate", "severe", "proliferative")


def kermany(source: Source) -> Listing:
    """`.../{train,val,test}/{NORMAL,PNEUMONIA}/*.jpeg` (Kermany et al. 2018); the patient is in the file
    name.

    The same id in two splits is taken for two patients: whether the numbering starts again is not documented.
    """
    records: list[Record] = []
    for name in source.names():
        parts = PurePosixPath(name).parts
        if (
            len(parts) < 3
            or parts[-3] not in _KERMANY_SPLITS
            or PurePosixPath(name).suffix.lower() not in (".jpeg", ".jpg")
        ):
            continue
        found = _KERMANY.match(parts[-1])
        if parts[-2] not in ("NORMAL", "PNEUMONIA") or found is None:
            raise DataError("the file name is not one of Kermany's", where=source.where(name))
        label = ("NORMAL", "PNEUMONIA").index(parts[-2])
        records.append(Record(name, label, f"{parts[-3]}/{found.group(1)}", _KERMANY_SPLITS[parts[-3]]))
    if not records:
        raise DataError("holds no {train,test}/{NORMAL,PNEUMONIA} folders", where=str(source.path))
    return Listing(records, ("normal", "pneumonia"), (PrivacyUnit.PATIENT, PrivacyUnit.IMAGE))


def aptos(source: Source) -> Listing:
    """`train.csv` (id_code, diagnosis) and `train_images/` (APTOS 2019); patients are not named."""
    return list_table(source, _named(source, "train.csv"), ("train_images", "images", ""), _GRADES)


def eyepacs(source: Source) -> Listing:
    """`labels.csv` and `images/`; the patient is a column, or the number before `_left` and `_right`."""
    listing = list_table(
        source, _named(source, "labels.csv", "trainLabels.csv"), ("images", "train", ""), _GRADES
    )
    if listing.units[0] is PrivacyUnit.PATIENT:
        return listing
    records = [
        Record(r.name, r.label, PurePosixPath(r.name).stem.rsplit("_", 1)[0], r.split)
        for r in listing.records
    ]
    return replace(listing, records=records, units=(PrivacyUnit.PATIENT, PrivacyUnit.IMAGE))


def ham10000(source: Source) -> Listing:
    """`images/x.jpg`, `masks/x.png`, `labels.csv` (image_id, lesion_id, dx): segmentation, the unit is the
    lesion."""
    name = _named(source, "labels.csv", "HAM10000_metadata.csv")
    table = parse(source.read(name), source.where(name))
    if not {"image", "lesion"} <= table.columns.keys():
        raise DataError("has no columns image_id and lesion_id", where=table.where)
    files = set(source.names())
    below = PurePosixPath(name).parent
    records: list[Record] = []
    for i in range(len(table.rows)):
        image, lesion = table.value(i, "image"), table.value(i, "lesion")
        pair = [str(below / "images" / f"{image}.jpg"), str(below / "masks" / f"{image}.png")]
        if not lesion or not set(pair) <= files:
            raise DataError(
                f"line {i + 2} has no lesion, or its image or mask is not there", where=table.where
            )
        records.append(Record(pair[0], -1, lesion, None, pair[1]))
    if len({record.name for record in records}) != len(records):
        raise DataError("names an image twice", where=table.where, remedy="Remove the second line.")
    return Listing(
        records, ("skin", "lesion"), (PrivacyUnit.LESION, PrivacyUnit.IMAGE), "segmentation", subgroups(table)
    )


def _named(source: Source, *wanted: str) -> str:
    found = [name for name in source.names() if PurePosixPath(name).name in wanted]
    if not found:
        raise DataError(f"holds no {' or '.join(wanted)}", where=str(source.path))
    return min(found, key=lambda name: name.count("/"))


LAYOUTS: dict[str, Callable[[Source], Listing]] = {
    "kermany": kermany,
    "aptos": aptos,
    "eyepacs": eyepacs,
    "ham10000": ham10000,
    "folder": list_folder,
}
