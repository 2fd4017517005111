# SPDX-License-Identifier: Apache-2.0
"""How published data sets lay out their files, one function each."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import PurePosixPath

from confide.data.folder import list_folder
from confide.data.owners import is_dicom
from confide.data.records import Listing, Record
from confide.data.sources import Source
from confide.data.table import Table, list_table, parse, subgroups
from confide.data.volumes import is_volume, list_decathlon
from confide.errors import DataError
from confide.privacy.units import PrivacyUnit

_KERMANY = re.compile(r"^(person\d+|(?:NORMAL2-)?IM-\d+)")
_KERMANY_SPLITS = {"train": "train", "val": "validation", "test": "test"}
_GRADES = ("none", "mild", "moderate", "severe", "proliferative")
_SKIN = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
_TISSUE = ("colon_aca", "colon_n", "lung_aca", "lung_n", "lung_scc")
# Grey values of CHAOS' masks on MRI: liver, right and left kidney, spleen.
_CHAOS_VALUES = {0: 0, 63: 1, 126: 0, 189: 0, 252: 0}
_PATIENTS = (PrivacyUnit.PATIENT, PrivacyUnit.IMAGE)
_LESIONS = (PrivacyUnit.LESION, PrivacyUnit.IMAGE)


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
    return Listing(records, ("normal", "pneumonia"), _PATIENTS)


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
    return replace(listing, records=records, units=_PATIENTS)


def ham10000(source: Source) -> Listing:
    """Images and masks anywhere below, `x.jpg` and `x.png` or `x_segmentation.png`; the unit is the
    lesion."""
    return _ham10000(source, masks=True)


def ham10000_diagnoses(source: Source) -> Listing:
    """The same images with their diagnosis as class."""
    return _ham10000(source, masks=False)


def _ham10000(source: Source, *, masks: bool) -> Listing:
    name = _named(source, "labels.csv", "HAM10000_metadata.csv", "HAM10000_metadata")
    table = parse(source.read(name), source.where(name))
    if not {"image", "lesion", "label"} <= table.columns.keys():
        raise DataError("has no columns image_id, lesion_id and dx", where=table.where)
    files = {PurePosixPath(file).name: file for file in source.names()}
    records = [_ham10000_record(table, i, files, masks) for i in range(len(table.rows))]
    if len({record.name for record in records}) != len(records):
        raise DataError("names an image twice", where=table.where, remedy="Remove the second line.")
    if masks:
        return Listing(records, ("skin", "lesion"), _LESIONS, "segmentation", subgroups(table))
    return Listing(records, _SKIN, _LESIONS, columns=subgroups(table))


def _ham10000_record(table: Table, i: int, files: dict[str, str], masks: bool) -> Record:
    image, lesion, diagnosis = (table.value(i, meaning) for meaning in ("image", "lesion", "label"))
    picture = files.get(f"{image}.jpg")
    mask = files.get(f"{image}_segmentation.png") or files.get(f"{image}.png")
    if not lesion or picture is None or (masks and mask is None):
        raise DataError(f"line {i + 2} has no lesion, or its image or mask is not there", where=table.where)
    if diagnosis not in _SKIN:
        raise DataError(
            f"line {i + 2} has the diagnosis {diagnosis[:20]!r}",
            where=table.where,
            why=f"Known are {', '.join(_SKIN)}.",
        )
    return (
        Record(picture, -1, lesion, None, mask) if masks else Record(picture, _SKIN.index(diagnosis), lesion)
    )


def lc25000(source: Source) -> Listing:
    """`{colon,lung}_image_sets/CLASS/*.jpeg`; which images come from one tile is not said."""
    records = [
        Record(name, _TISSUE.index(folder), name)
        for name in source.names()
        if (folder := PurePosixPath(name).parent.name) in _TISSUE
    ]
    if not records:
        raise DataError(f"holds none of the folders {', '.join(_TISSUE)}", where=str(source.path))
    return Listing(records, _TISSUE, (PrivacyUnit.IMAGE,))


def chaos(source: Source) -> Listing:
    """`MR/PATIENT/T1DUAL/Ground/x.png` with `.../DICOM_anon/**/x.dcm`; liver against everything else."""
    names = [PurePosixPath(name) for name in source.names()]
    slices = {
        (name.parts[name.parts.index("T1DUAL") - 1], name.stem): str(name)
        for name in names
        if "T1DUAL" in name.parts[1:] and name.suffix.lower() == ".dcm"
    }
    records: list[Record] = []
    for name in names:
        if "T1DUAL" not in name.parts[1:] or name.parent.name != "Ground" or name.suffix.lower() != ".png":
            continue
        patient = name.parts[name.parts.index("T1DUAL") - 1]
        image = slices.get((patient, name.stem))
        if image is None:
            raise DataError("no DICOM slice belongs to the mask", where=source.where(str(name)))
        records.append(Record(image, -1, patient, None, str(name)))
    if not records:
        raise DataError("holds no MR/*/T1DUAL/Ground/*.png", where=str(source.path))
    return Listing(records, ("background", "liver"), _PATIENTS, "segmentation", mask_values=_CHAOS_VALUES)


def ircadb(source: Source) -> Listing:
    """`PATIENT_DICOM/image_k` with slice k of `*_liver.nii.gz`, of one patient."""
    names = source.names()
    livers = [name for name in names if is_volume(name) and "liver" in PurePosixPath(name).name]
    slices = [name for name in names if PurePosixPath(name).parent.name == "PATIENT_DICOM"]
    slices = [name for name in slices if is_dicom(source, name)]
    if len(livers) != 1 or not slices:
        raise DataError("holds no PATIENT_DICOM/image_* with one *_liver.nii.gz", where=str(source.path))
    records = [
        Record(name, -1, "the patient", None, f"{livers[0]}#{PurePosixPath(name).name.rpartition('_')[2]}")
        for name in slices
    ]
    return Listing(records, ("background", "liver"), _PATIENTS, "segmentation", undivided=True)


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
    "ham10000-diagnoses": ham10000_diagnoses,
    "lc25000": lc25000,
    "chaos": chaos,
    "ircadb": ircadb,
    "decathlon": list_decathlon,
    "decathlon-first": list_decathlon,
    "folder": list_folder,
}
