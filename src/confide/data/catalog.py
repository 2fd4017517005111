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

from confide.data.imageset import DatasetInfo, ImageSet
from confide.data.medmnist import RawSplit, read_npz
from confide.errors import DataError
from confide.privacy.units import PrivacyUnit

_MEDMNIST = (
    "Yang J, Shi R, Wei D, et al. MedMNIST v2. Scientific Data 10:41 (2023), doi:10.1038/s41597-022-01721-8"
)

ENTRIES: dict[str, DatasetInfo] = {
    info.name: info
    for info in (
        DatasetInfo(
            "pneumoniamnist",
            "PneumoniaMNIST: paediatric chest X-rays, 28×28",
            ("normal", "pneumonia"),
            1,
            licence="CC BY 4.0",
            citation=f"{_MEDMNIST}; images: Kermany D, Goldbaum M, Cai W, et al. Cell 172:1122-1131 (2018), "
            "doi:10.1016/j.cell.2018.02.010",
            remarks="Put together again from two copies of the official file; 18 duplicates inside train, 8 images in both "
            "train and validation. No patient ids, although several images may show one child.",
            sha256="5956be301b82a5bc6ccea28d11c18369f2335fc62af3931ad5ba7ba63f8debb1",
        ),
        DatasetInfo(
            "bloodmnist",
            "Blood cells, 28×28, own split after BloodMNIST",
            ("basophil", "eosinophil", "erythroblast", "ig", "lymphocyte", "monocyte", "neutrophil", "platelet"),
            3,
            licence="CC BY 4.0",
            citation="Acevedo A, Merino A, Alferez S, et al. Data in Brief 30:105474 (2020), doi:10.1016/j.dib.2020.105474",
            remarks="Own split and resize, so published BloodMNIST scores are only a rough guide. No patient ids exist.",
            sha256="396946abfe7a70070b65486addcf5cc367fdcbd4cfdce9625145e34cb0a45fef",
        ),
        DatasetInfo(
            "dermamnist",
            "HAM10000 skin lesions, 28×28, split by lesion",
            ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc"),
            3,
            units=(PrivacyUnit.LESION, PrivacyUnit.IMAGE),
            licence="CC BY-NC 4.0",
            citation="Tschandl P, Rosendahl C, Kittler H. Scientific Data 5:180161 (2018), doi:10.1038/sdata.2018.161",
            remarks="A patient may have several lesions; the data do not say which.",
            sha256="9bd0335196fd938ac984e5bcba0826807e6047cb8b1c77c7f944f8513a30a4f7",
        ),
        DatasetInfo(
            "lc25000_colon",
            "LC25000 colon tissue, 28×28, split by source tile",
            ("benign", "adenocarcinoma"),
            3,
            units=(PrivacyUnit.TILE, PrivacyUnit.IMAGE),
            licence="free for AI research; no formal licence text known",
            citation="Borkowski AA, Bui MM, Thomas LB, et al. arXiv:1912.12142 (2019)",
            remarks="Blown up from 250 tiles a class by rotation and flips; patients are unknown.",
            sha256="a95dca7c7222b8e464f3f2198879f12c6f0d4eec51962782e4d6f044045e2d84",
        ),
    )
}


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


def data_folders() -> list[Path]:
    """Where data sets are looked for, in order: CONFIDE_DATA, the user's cache folder, the packaged files."""
    from platformdirs import user_cache_path

    named = os.environ.get("CONFIDE_DATA")
    packaged = Path(str(resources.files("confide.data"))) / "packaged"
    return [*([Path(named)] if named else []), user_cache_path("confide") / "data", packaged]


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
        remedy = f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(names())}; or give the path of an npz file."
        raise DataError(f"there is no data set {name!r}", remedy=remedy)
    raw = read_npz(path, len(known.classes) if known else None)
    info = known or _describe(path, raw)
    chosen = _choose_unit(info, unit, path)
    height, width = raw["train"].images.shape[-2:]
    if size is not None and (height, width) != (size, size):
        raise DataError(f"holds {height}×{width} images, not {size}×{size}", where=str(path), remedy="Leave data.size out.")
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
def _digest(path: Path, size: int, changed: int) -> str:  # noqa: ARG001
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(path: Path) -> str:
    """SHA-256 of a file."""
    status = path.stat()
    return _digest(path, status.st_size, status.st_mtime_ns)
