# SPDX-License-Identifier: Apache-2.0
"""The data sets that confide knows by name, and how any of them, or a file of one's own, is loaded."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib import resources
from pathlib import Path

import numpy as np

from confide.data.entries import ENTRIES
from confide.data.folder import list_folder
from confide.data.imageset import DatasetInfo, ImageSet
from confide.data.ingest import Progress, Reading, ingest
from confide.data.layouts import LAYOUTS
from confide.data.masks import read_masks
from confide.data.medmnist import RawSplit, read_npz
from confide.data.pseudonyms import PUBLIC_KEY, project_key
from confide.data.records import Listing
from confide.data.sources import Source, open_source
from confide.data.splits import SEED
from confide.data.volumes import VolumeSlices, is_volume, list_decathlon
from confide.errors import DataError
from confide.privacy.units import PrivacyUnit


@dataclass(frozen=True)
class DataSplits:
    """A loaded data set.

    Attributes:
        fingerprint: SHA-256 of the file; for a folder of one's own "keyed:" and a digest under the
        project's key.
        bad: Name and reason of each file that was left out.
        declared_public: What a run takes from the data outside its private mechanism.
    """

    train: ImageSet
    validation: ImageSet
    test: ImageSet
    info: DatasetInfo
    fingerprint: str
    declared_public: tuple[str, ...]
    bad: tuple[tuple[str, str], ...] = field(default=(), repr=False)

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


def find(name: str, size: int | None = None) -> Path | None:
    """The file or folder of a catalogue entry, if it is on this machine."""
    info = ENTRIES[name]
    plain = info.file or f"{name}.npz"
    sized = [f"{name}_{size}.npz"] if size in info.sizes and size != 28 else [plain]
    return next(
        (path for folder in data_folders() for file in sized if (path := folder / file).exists()), None
    )


def load(
    name_or_path: str | Path,
    *,
    unit: PrivacyUnit | None = None,
    size: int | None = None,
    channels: int | None = None,
    window: str | None = None,
    patients: str | None = None,
    skip_bad: bool = False,
    seed: int = SEED,
    progress: Progress | None = None,
) -> DataSplits:
    """Load a data set by catalogue name, or a file, zip or folder of one's own by path.

    Args:
        unit: Whom the guarantee shall protect; default: the strongest unit that the set has ids for.
        size: Side of the square that images are resized to, default 224; of an npz file, the size that it
        has.
        channels: 1 or 3; default: as the catalogue says, else 3. Folders only, as are the following.
        window: DICOM window: a name of `confide.data.dicom.WINDOWS`.
        patients: Regular expression with one group that finds the patient in a file name.
        skip_bad: Leave out files that cannot be used and list them in `bad`, instead of stopping.
        seed: Of the split, where nobody has split the data.
        progress: Called with (images done, images in all) while files are decoded.

    Raises:
        DataError: If it is unknown, not here, damaged, or has no ids for the unit asked.
    """
    name = str(name_or_path)
    known = ENTRIES.get(name)
    path = find(name, size) if known else Path(name)
    if path is None:
        raise absent(name, size)
    if known is None and not path.exists():
        near = difflib.get_close_matches(name, ENTRIES, n=1)
        known_names = f"Known: {', '.join(names())}; or give the path of a file or folder."
        raise DataError(
            f"there is no data set {name!r}", remedy=f"Did you mean {near[0]!r}?" if near else known_names
        )
    stored = read_stored(path) if known is None else None
    if stored is not None:
        path, known = stored
    if path.suffix == ".npz":
        return _load_npz(path, known, unit, size)
    info, listing, source = _listing(path, known, patients, channels, skip_bad)
    if any("#" in (record.mask or "") for record in listing.records[:1]):
        source = VolumeSlices(source, window, len(listing.classes))
    chosen = _choose_unit(info, unit, path)
    key = PUBLIC_KEY if known else project_key()
    reading = Reading(size or 224, info.channels, window, skip_bad)
    found = ingest(source, listing, info, reading, unit=chosen, key=key, seed=seed, progress=progress)
    public = [
        f"images resized to {reading.size}×{reading.size}, {info.channels} channels",
        f"DICOM window: {window or 'that of each file'}",
    ]
    if not any(record.split for record in listing.records):
        public.append(f"split by {info.units[0].value}: a hash of each id with seed {seed}")
    # What everybody has is named by its checksum, what is one's own by a digest that only its owner can make.
    named = fingerprint(path) if known and path.is_file() else f"keyed:{found.digest}"
    splits = found.splits
    return DataSplits(
        splits["train"],
        splits["validation"],
        splits["test"],
        info,
        named,
        (*_public(info, splits["train"], chosen), *public),
        tuple(found.bad),
    )


def read_stored(path: Path) -> tuple[Path, DatasetInfo] | None:
    """The images and the description of a perturbed set in a folder, see `confide.data.perturb`."""
    record, images = path / "guarantee.json", path / "data.npz"
    if not (record.is_file() and images.is_file()):
        return None
    try:
        values = json.loads(record.read_text(encoding="utf-8"))
        facts = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values["info"].items()
        }
        units = tuple(PrivacyUnit(word) for word in dict.fromkeys([values["unit"], "image"]))
        remarks = f"Perturbed: {'; '.join(values['guarantee']['text'])}. {facts['remarks']}"
        return images, DatasetInfo(**{**facts, "units": units, "layout": "medmnist", "remarks": remarks})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            "the record of a perturbed set is damaged", where=str(record), why=type(error).__name__
        ) from None


def absent(name: str, size: int | None = None) -> DataError:
    """The error for a set that is known but not here."""
    info = ENTRIES[name]
    file = info.file or (f"{name}_{size}.npz" if size in info.sizes and size != 28 else f"{name}.npz")
    return DataError(
        f"{name!r} is known but not on this machine",
        why=f"Looked for {file} in: {', '.join(map(str, data_folders()))}.",
        remedy=f"Run: confide data fetch {name}"
        if info.url
        else f"Put {file} into a folder and name it in CONFIDE_DATA.",
    )


def _listing(
    path: Path, known: DatasetInfo | None, patients: str | None, channels: int | None, skip_bad: bool
) -> tuple[DatasetInfo, Listing, Source]:
    source = open_source(path)
    if known:
        info = (
            known
            if channels in (None, known.channels)
            else replace(known, channels=channels, mean=(), std=())
        )
        return info, LAYOUTS[known.layout](source), source
    decathlon = any("imagesTr" in name and is_volume(name) for name in source.names())
    listing = (
        list_decathlon(source) if decathlon else list_folder(source, patients=patients, skip_bad=skip_bad)
    )
    channels = 1 if decathlon else channels
    title = f"{path.name}, a data set of one's own"
    units = listing.units
    info = DatasetInfo(
        path.stem or "folder", title, listing.classes, channels or 3, task=listing.task, units=units
    )
    return info, listing, source


def _public(info: DatasetInfo, train: ImageSet, unit: PrivacyUnit) -> tuple[str, ...]:
    return (
        f"the number of training {unit.value}s, n = {train.n_units}",
        "class names and image size",
        f"normalisation constants {info.mean} and {info.std}: fixed, not computed from the images",
        "scores on validation and test images",
    )


def _load_npz(
    path: Path, known: DatasetInfo | None, unit: PrivacyUnit | None, size: int | None
) -> DataSplits:
    if known and known.layout == "masks":
        chosen = _choose_unit(known, unit, path)
        pairs = read_masks(path, len(known.classes))
        splits = {
            split: ImageSet(images, masks, np.arange(len(images), dtype=np.int64), chosen, known, split)
            for split, (images, masks) in pairs.items()
        }
        info = known
    else:
        raw = read_npz(path, len(known.classes) if known else None)
        info = known or _describe(path, raw)
        if raw["train"].groups is None:
            # The publisher's own file of a set whose copy in shared/data has groups.
            info = replace(info, units=(PrivacyUnit.IMAGE,))
        chosen = _choose_unit(info, unit, path)
        splits = {split: _image_set(values, info, split, chosen) for split, values in raw.items()}
    height, width = splits["train"].images.shape[-2:]
    if size is not None and (height, width) != (size, size):
        raise DataError(
            f"holds {height}×{width} images, not {size}×{size}",
            where=str(path),
            remedy="Leave data.size out.",
        )
    if splits["train"].images.shape[1] != info.channels:
        raise DataError(
            f"holds {splits['train'].images.shape[1]} channels, not {info.channels}", where=str(path)
        )
    public = _public(info, splits["train"], chosen)
    # A plain hash would let whoever knows all images but one check a guess at that one.
    named = fingerprint(path) if known else f"keyed:{_keyed(path)}"
    return DataSplits(splits["train"], splits["validation"], splits["test"], info, named, public)


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


def _keyed(path: Path) -> str:
    digest = hashlib.blake2b(key=project_key(), digest_size=24, person=b"confide file")
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@lru_cache(maxsize=16)
def _digest(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(path: Path) -> str:
    """SHA-256 of a file."""
    status = path.stat()
    return _digest(path, status.st_size, status.st_mtime_ns)
