# SPDX-License-Identifier: Apache-2.0
"""Files to splits: list, split by unit, decode once into the cache, map."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from confide.data.cache import VERSION, Entry, EntryWriter, open_entry
from confide.data.decode import decode, decode_mask, measure
from confide.data.imageset import DatasetInfo, ImageSet
from confide.data.pseudonyms import pseudonym
from confide.data.records import Listing, Record
from confide.data.sources import Source
from confide.data.splits import SEED, SPLITS, assign
from confide.errors import DataError
from confide.privacy.units import PrivacyUnit

Progress = Callable[[int, int], None]
_CHUNK = 128


@dataclass(frozen=True)
class Reading:
    """How files become pixels: public choices, the same for every image.

    Attributes:
        size: Side of the square that images are resized to.
        channels: 1 (grey) or 3 (RGB).
        window: DICOM window, see `confide.data.dicom.WINDOWS`.
        skip_bad: Leave out files that cannot be used, instead of stopping at the first.
    """

    size: int = 224
    channels: int = 3
    window: str | None = None
    skip_bad: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.size <= 4096 or self.channels not in (1, 3):
            raise DataError(f"images of side {self.size} with {self.channels} channels are not possible")


@dataclass(frozen=True)
class Ingested:
    """The three splits, the keyed digest of the content (not of how it was read), and the files left out
    with the reason."""

    splits: dict[str, ImageSet]
    digest: str
    bad: list[tuple[str, str]] = field(default_factory=list, repr=False)


def ingest(
    source: Source,
    listing: Listing,
    info: DatasetInfo,
    reading: Reading,
    *,
    unit: PrivacyUnit,
    key: bytes,
    seed: int = SEED,
    progress: Progress | None = None,
) -> Ingested:
    """Read a data set, from the cache where it is.

    Args:
        unit: Whom the guarantee shall protect. Splits are by the strongest unit that there are ids for all
        the same.
        key: For pseudonyms and the digest.
        progress: Called with (images done, images in all).

    Raises:
        DataError: The first bad file, unless `reading.skip_bad`; nothing is left behind.
    """
    records = listing.records
    if not records:
        raise DataError("holds no images", where=str(source.path))
    people = [pseudonym(key, "unit", record.unit) for record in records]
    sides = np.zeros(len(people), dtype=np.int64)
    if not listing.undivided:
        sides = assign(people, [record.split for record in records], str(source.path), seed=seed)
    order = np.argsort(sides, kind="stable")
    records = [records[i] for i in order]
    contents = _content(source, records, key)
    # Names the data, so it knows nothing of size, split or order: the same images at another size are the
    # same people.
    named = _together(sorted(contents), key)
    digest = _together(
        contents,
        key,
        [VERSION, np.__version__, listing.classes, listing.task, sorted(sides.tolist())],
        [reading.size, reading.channels, reading.window, reading.skip_bad],
        sorted(listing.mask_values.items()),
    )
    entry = open_entry(digest)
    if entry is None:
        _write(source, records, listing, reading, digest, progress)
        entry = open_entry(digest)
        if entry is None:
            raise DataError("the cache entry just written cannot be read", remedy="Check the disk.")
    bad = [*listing.bad, *((source.where(records[row].name), why) for row, why in entry.bad.items())]
    sides, people = sides[order], [people[i] for i in order]
    columns = {name: np.array(values)[order] for name, values in listing.columns.items()}
    splits = _splits(entry, sides, people, info, unit, columns)
    return Ingested(splits, named, bad)


def _splits(
    entry: Entry,
    sides: NDArray[np.int64],
    people: list[bytes],
    info: DatasetInfo,
    unit: PrivacyUnit,
    columns: dict[str, NDArray[Any]],
) -> dict[str, ImageSet]:
    kept = entry.kept
    bounds = np.searchsorted(sides[kept], [0, 1, 2, 3])
    splits: dict[str, ImageSet] = {}
    for number, name in enumerate(SPLITS):
        # Rows lie in the order of the splits, so a split is a slice of the map and costs no memory.
        rows = slice(int(bounds[number]), int(bounds[number + 1]))
        owners = [people[i] for i in kept[rows]]
        if not owners and (sides == number).any():
            raise DataError(f"all images of {name} are bad", where=info.name)
        index = np.unique(np.array([owner.hex() for owner in owners]), return_inverse=True)[1].astype(
            np.int64
        )
        if unit is PrivacyUnit.IMAGE:
            index = np.arange(len(owners), dtype=np.int64)
        further = {column: values[kept[rows]] for column, values in columns.items()}
        splits[name] = ImageSet(
            entry.images[rows], entry.targets[rows], index, unit, replace(info), name, further
        )
    return splits


def _content(source: Source, records: list[Record], key: bytes) -> list[bytes]:
    """A keyed digest of each record: its bytes, its mask's, whose it is, its label."""

    def one(record: Record) -> bytes:
        found = hashlib.blake2b(key=key, digest_size=24, person=b"confide record")
        for name in (record.name, record.mask):
            if name is not None:
                try:
                    data = source.identity(name)
                except DataError:
                    data = b"unreadable"  # met again, and reported, when it is decoded
                found.update(len(data).to_bytes(8, "little") + data)
        found.update(pseudonym(key, record.unit) + str(record.label).encode())
        return found.digest()

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(one, records))


def _together(contents: list[bytes], key: bytes, *options: object) -> str:
    digest = hashlib.blake2b(key=key, digest_size=24, person=b"confide data set")
    digest.update(json.dumps([len(contents), *options]).encode())
    for content in contents:
        digest.update(content)
    return digest.hexdigest()


def _write(
    source: Source,
    records: list[Record],
    listing: Listing,
    reading: Reading,
    digest: str,
    progress: Progress | None,
) -> None:
    mask = listing.task == "segmentation"
    # Pillow warns of odd files and may quote them; what matters is raised. Warnings are set once, here,
    # because
    # threads share them.
    with EntryWriter(digest, (reading.channels, reading.size, reading.size), mask=mask) as writer, _quiet():
        for row, found in enumerate(_decoded(source, records, reading, listing)):
            if isinstance(found, DataError):
                if not reading.skip_bad:
                    raise found
                writer.bad[row] = " ".join(text for text in (found.what, found.why) if text)
            else:
                image, labelled = found
                writer.add(row, image, records[row].label if labelled is None else labelled)
            if progress is not None:
                progress(row + 1, len(records))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


Decoded = tuple[NDArray[np.uint8], NDArray[np.uint8] | None] | DataError


def _decoded(source: Source, records: list[Record], reading: Reading, listing: Listing) -> Iterator[Decoded]:
    """Each record's image and mask, or what is wrong with it, in order. Decoders release the interpreter's
    lock."""

    def one(record: Record) -> Decoded:
        try:
            where = source.where(record.name)
            data = source.read(record.name)
            image = decode(data, where, size=reading.size, channels=reading.channels, window=reading.window)
            if record.mask is None:
                return image, None
            shape = measure(data, where)
            mask = source.where(record.mask)
            target = decode_mask(
                source.read(record.mask),
                mask,
                size=reading.size,
                image_size=shape,
                classes=len(listing.classes),
                meaning=listing.mask_values,
            )
            return image, target
        except DataError as error:
            return error

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(records), _CHUNK):
            yield from pool.map(one, records[start : start + _CHUNK])
