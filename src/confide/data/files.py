# SPDX-License-Identifier: Apache-2.0
"""A folder or archive to splits: list it, read it once into the cache, and say what was chosen in doing
so."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from confide.data.folder import list_folder
from confide.data.imageset import DatasetInfo
from confide.data.ingest import Progress, Reading, ingest
from confide.data.layouts import LAYOUTS
from confide.data.loaded import DataSplits, chosen_unit, declared, fingerprint
from confide.data.pseudonyms import PUBLIC_KEY, project_key
from confide.data.records import Listing
from confide.data.sources import Source, open_source
from confide.data.splits import SEED
from confide.data.volumes import VolumeSlices, is_volume, list_decathlon, own_window
from confide.errors import DataError
from confide.privacy.units import PrivacyUnit


@dataclass(frozen=True)
class Options:
    """How a folder is read; all of it public and recorded. See `confide.data.catalog.load`."""

    unit: PrivacyUnit | None = None
    size: int | None = None
    channels: int | None = None
    window: str | None = None
    patients: str | None = None
    classes: tuple[str, ...] | None = None
    skip_bad: bool = False
    seed: int = SEED


def load_files(
    path: Path, known: DatasetInfo | None, options: Options, progress: Progress | None
) -> DataSplits:
    """The splits of a folder or archive.

    Raises:
        DataError: If it cannot be read, or has no ids for the unit.
    """
    source = open_source(path)
    info, listing = _published(source, known, options) if known else _own(source, path, options)
    window = options.window or info.window or None
    slices = {name for r in listing.records for name in (r.name, r.mask or "") if "#" in name}
    if slices:
        masks = frozenset((r.mask or "").rpartition("#")[0] for r in listing.records)
        first = 0 if info.layout == "decathlon-first" else None
        source = VolumeSlices(source, window or "abdomen", len(listing.classes), masks=masks, modality=first)
    unit = chosen_unit(info, options.unit, path)
    key = PUBLIC_KEY if known else project_key()
    # The window of slices is applied by their source; that of DICOM files when they are decoded.
    reading = Reading(options.size or 224, info.channels, window, options.skip_bad)
    found = ingest(source, listing, info, reading, unit=unit, key=key, seed=options.seed, progress=progress)
    # What everybody has is named by its checksum, what is one's own by a digest that only its owner can make.
    named = fingerprint(path) if known and path.is_file() else f"keyed:{found.digest}"
    splits = found.splits
    public = (*declared(info, splits["train"], unit), *_chosen(info, listing, reading, options, bool(slices)))
    return DataSplits(
        splits["train"], splits["validation"], splits["test"], info, named, public, tuple(found.bad)
    )


def _chosen(
    info: DatasetInfo, listing: Listing, reading: Reading, options: Options, slices: bool
) -> list[str]:
    """The choices of reading, for the record."""
    window = reading.window or ("abdomen" if slices else "that of each file")
    public = [f"images resized to {reading.size}×{reading.size}, {info.channels} channels"]
    if slices or reading.window or any(r.name.lower().endswith(".dcm") for r in listing.records):
        public.append(f"window of grey values: {window}")
    if listing.undivided:
        public.append("nothing was divided: all images show one patient")
    elif not any(record.split for record in listing.records):
        public.append(f"split by {listing.units[0].value}: a hash of each id with seed {options.seed}")
    return public


def _published(source: Source, known: DatasetInfo, options: Options) -> tuple[DatasetInfo, Listing]:
    if options.patients is not None or options.classes is not None:
        raise DataError(
            f"{known.name!r} says itself who its patients and what its classes are",
            remedy="Leave data.patients and data.classes out, or name the set by its path.",
        )
    if options.channels in (None, known.channels):
        return known, LAYOUTS[known.layout](source)
    return replace(known, channels=options.channels, mean=(), std=()), LAYOUTS[known.layout](source)


def _own(source: Source, path: Path, options: Options) -> tuple[DatasetInfo, Listing]:
    decathlon = any("imagesTr" in name and is_volume(name) for name in source.names())
    if decathlon:
        listing = list_decathlon(source, skip_bad=options.skip_bad)
    else:
        listing = list_folder(
            source, patients=options.patients, classes=options.classes, skip_bad=options.skip_bad
        )
    info = DatasetInfo(
        path.stem or "folder",
        f"{path.name}, a data set of one's own",
        listing.classes,
        1 if decathlon else options.channels or 3,
        task=listing.task,
        units=listing.units,
        window=own_window(source) if decathlon else "",
    )
    return info, listing
