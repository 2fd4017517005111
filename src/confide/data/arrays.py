# SPDX-License-Identifier: Apache-2.0
"""npz files to splits: MedMNIST files, files with masks, and perturbed sets."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from confide.data.entries import described
from confide.data.imageset import DatasetInfo, ImageSet
from confide.data.loaded import DataSplits, chosen_unit, declared, fingerprint, keyed_fingerprint
from confide.data.masks import read_masks
from confide.data.medmnist import RawSplit, read_npz
from confide.errors import DataError
from confide.privacy.units import PrivacyUnit

IMAGES, RECORD = "data.npz", "guarantee.json"


def load_npz(path: Path, known: DatasetInfo | None, unit: PrivacyUnit | None, size: int | None) -> DataSplits:
    """A file of the catalogue or of one's own.

    Raises:
        DataError: If it is damaged, of another size, or has no ids for the unit.
    """
    named = fingerprint(path) if known else keyed_fingerprint(path)
    known = described(known, named) if known else None
    if known and known.layout == "masks":
        info, splits = _masks(path, known, unit)
    else:
        info, splits = _images(path, known, unit)
    train = splits["train"]
    height, width = train.images.shape[-2:]
    if size is not None and (height, width) != (size, size):
        raise DataError(
            f"holds {height}×{width} images, not {size}×{size}",
            where=str(path),
            remedy="Leave data.size out.",
        )
    if train.images.shape[1] != info.channels:
        raise DataError(f"holds {train.images.shape[1]} channels, not {info.channels}", where=str(path))
    public = declared(info, train, train.unit)
    return DataSplits(train, splits["validation"], splits["test"], info, named, public)


def _masks(
    path: Path, info: DatasetInfo, unit: PrivacyUnit | None
) -> tuple[DatasetInfo, dict[str, ImageSet]]:
    found, groups = read_masks(path, len(info.classes))
    if groups is None:
        info = replace(info, units=(PrivacyUnit.IMAGE,))
    chosen = chosen_unit(info, unit, path)
    splits: dict[str, ImageSet] = {}
    for split, (images, masks) in found.items():
        index = np.arange(len(images), dtype=np.int64)
        if groups is not None and chosen is not PrivacyUnit.IMAGE:
            index = np.unique(groups[split], return_inverse=True)[1].astype(np.int64)
        splits[split] = ImageSet(images, masks, index, chosen, info, split)
    return info, splits


def _images(
    path: Path, known: DatasetInfo | None, unit: PrivacyUnit | None
) -> tuple[DatasetInfo, dict[str, ImageSet]]:
    findings = known is not None and known.layout == "medmnist-findings"
    raw = read_npz(path, len(known.classes) if known else None, findings=findings)
    info = known or _describe(path, raw)
    if raw["train"].groups is None:
        # Another file of this name, without the ids that this project's copy has.
        info = replace(info, units=(PrivacyUnit.IMAGE,))
    chosen = chosen_unit(info, unit, path)
    return info, {split: _image_set(values, info, split, chosen) for split, values in raw.items()}


def _describe(path: Path, raw: dict[str, RawSplit]) -> DatasetInfo:
    """An unknown npz file: classes by number, groups taken as patients."""
    classes = 1 + max(int(split.labels.max()) for split in raw.values())
    grouped = raw["train"].groups is not None
    return DatasetInfo(
        path.stem,
        f"{path.name}, a file of one's own",
        tuple(f"class {k}" for k in range(max(2, classes))),
        raw["train"].images.shape[1],
        units=(PrivacyUnit.PATIENT, PrivacyUnit.IMAGE) if grouped else (PrivacyUnit.IMAGE,),
        remarks="The groups of this file are taken to be patients." if grouped else "",
    )


def _image_set(raw: RawSplit, info: DatasetInfo, split: str, unit: PrivacyUnit) -> ImageSet:
    index = np.arange(len(raw.images), dtype=np.int64)
    if unit is not PrivacyUnit.IMAGE:
        assert raw.groups is not None
        index = np.unique(raw.groups, return_inverse=True)[1].astype(np.int64)
    return ImageSet(raw.images, raw.labels, index, unit, info, split)


def load_perturbed(folder: Path, unit: PrivacyUnit | None, size: int | None) -> DataSplits | None:
    """The perturbed set in a folder, see `confide.data.perturb`; None if it holds none.

    It is a data set of its own: what was spent on the original has nothing to do with it, because every
    image in it was made private before it was written.
    """
    if not ((folder / RECORD).is_file() and (folder / IMAGES).is_file()):
        return None
    values = _record(folder / RECORD)
    guarantee = values["guarantee"]
    splits = load_npz(folder / IMAGES, values["info"], unit, size)
    stated = f"the images are a perturbed copy, made before training: {'; '.join(guarantee['text'])}"
    public = (*splits.declared_public, stated)
    named = keyed_fingerprint(folder / IMAGES)
    return replace(splits, fingerprint=named, declared_public=public, local_guarantee=guarantee)


def _record(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        facts = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values["info"].items()
        }
        units = tuple(PrivacyUnit(word) for word in dict.fromkeys([values["unit"], "image"]))
        text = "; ".join(values["guarantee"]["text"])
        remarks = f"Perturbed: {text}. {facts['remarks']}"
        layout = "masks" if facts["task"] == "segmentation" else "medmnist"
        info = DatasetInfo(**{**facts, "units": units, "layout": layout, "remarks": remarks})
        return {"info": info, "guarantee": dict(values["guarantee"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            "the record of a perturbed set is damaged", where=str(path), why=type(error).__name__
        ) from None
