# SPDX-License-Identifier: Apache-2.0
"""The data sets that confide knows by name, and how any of them, or a file of one's own, is loaded."""

from __future__ import annotations

import difflib
import hashlib
import os
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import resources
from pathlib import Path

import numpy as np

from confide.data.entries import ENTRIES
from confide.data.imageset import DatasetInfo, ImageSet
from confide.data.medmnist import RawSplit, read_npz
from confide.errors import DataError
from confide.privacy.units import PrivacyUnit


@dataclass(frozen=True)
class DataSplits:
    """A loaded data set.

    Attributes:
        fingerprint: SHA-256 of the file.
        declared_public: What a run takes from the data outside its private mechanism.
    """

    train: ImageSet
    validation: ImageSet
    test: ImageSet
    info: DatasetInfo
    fingerprint: str
    declared_public: tuple[str, ...]

    def content_digest(self, key: bytes) -> str:
        """Keyed BLAKE2b of all images, targets and units: names the content to whoever has the key.

        A plain hash of private images lets anybody who has a candidate check whether it is the one.
        """
        digest = hashlib.blake2b(key=key[:64], digest_size=32)
        for split in (self.train, self.validation, self.test):
            for array in (split.images, split.targets, split.unit_index):
                digest.update(f"{split.split} {array.shape} {array.dtype.str}".encode())
                for start in range(0, len(array), 1024):
                    digest.update(np.ascontiguousarray(array[start : start + 1024]).data)
        return digest.hexdigest()


def data_folders() -> list[Path]:
    """Where data sets are looked for: CONFIDE_DATA, the user's cache, beside a checkout, packaged."""
    from platformdirs import user_cache_path

    named = os.environ.get("CONFIDE_DATA")
    packaged = Path(str(resources.files("confide.data"))) / "packaged"
    # In a checkout, and only there: the larger sets that may lie beside it.
    source = Path(__file__).resolve().parents[2]
    beside = source.parents[1] / "shared" / "data"
    extra = [beside] if source.name == "src" and beside.is_dir() else []
    return [*([Path(named)] if named else []), user_cache_path("confide") / "data", *extra, packaged]


def names() -> tuple[str, ...]:
    """All catalogue names."""
    return tuple(sorted(ENTRIES))


def find(name: str) -> Path | None:
    """The file of a catalogue entry, if it is on this machine."""
    return next((path for folder in data_folders() if (path := folder / f"{name}.npz").exists()), None)


def load(name_or_path: str | Path, *, unit: PrivacyUnit | None = None, size: int | None = None) -> DataSplits:
    """Load a data set by catalogue name, or a MedMNIST-format npz by path.

    Args:
        unit: Whom the guarantee shall protect; default: the strongest unit that the set has ids for.
        size: Refused here unless it is the size of the images.

    Raises:
        DataError: If it is unknown, not here, damaged, or has no ids for the unit asked.
    """
    name = str(name_or_path)
    known = ENTRIES.get(name)
    path = find(name) if known else Path(name)
    if path is None:
        raise DataError(
            f"{name!r} is known but not on this machine",
            why=f"Looked in: {', '.join(map(str, data_folders()))}.",
            remedy=f"Put {name}.npz into a folder and name that folder in CONFIDE_DATA.",
        )
    if known is None and path.suffix != ".npz":
        near = difflib.get_close_matches(name, ENTRIES, n=1)
        remedy = (
            f"Did you mean {near[0]!r}?"
            if near
            else f"Known: {', '.join(names())}; or give the path of an npz file."
        )
        raise DataError(f"there is no data set {name!r}", remedy=remedy)
    raw = read_npz(path, len(known.classes) if known else None)
    info = known or _describe(path, raw)
    chosen = _choose_unit(info, unit, path)
    height, width = raw["train"].images.shape[-2:]
    if size is not None and (height, width) != (size, size):
        raise DataError(
            f"holds {height}×{width} images, not {size}×{size}",
            where=str(path),
            remedy="Leave data.size out.",
        )
    splits = {split: _image_set(values, info, split, chosen) for split, values in raw.items()}
    return DataSplits(
        splits["train"],
        splits["validation"],
        splits["test"],
        info,
        fingerprint(path),
        (
            f"the number of training {chosen.value}s, n = {splits['train'].n_units}",
            "class names and image size",
            f"normalisation constants {info.mean} and {info.std}: fixed, not computed from the images",
            "scores on validation and test images",
        ),
    )


def _choose_unit(info: DatasetInfo, unit: PrivacyUnit | None, path: Path) -> PrivacyUnit:
    if unit is None:
        return info.units[0]
    if unit not in info.units:
        raise DataError(
            f"has no {unit.value} ids, so no guarantee per {unit.value} can be given",
            where=str(path),
            remedy=f"Choose {' or '.join(kind.value for kind in info.units)}.",
        )
    return unit


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
    rows = len(raw.images)
    index = np.arange(rows, dtype=np.int64)
    if unit is not PrivacyUnit.IMAGE:
        assert raw.groups is not None
        index = np.unique(raw.groups, return_inverse=True)[1].astype(np.int64)
    return ImageSet(raw.images, raw.labels, index, unit, replace(info), split)


@lru_cache(maxsize=16)
def _digest(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(path: Path) -> str:
    """SHA-256 of a file."""
    status = path.stat()
    return _digest(path, status.st_size, status.st_mtime_ns)
