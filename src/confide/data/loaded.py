# SPDX-License-Identifier: Apache-2.0
"""A data set in memory: its three splits, what names it, and what was declared public about it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from confide.data.imageset import DatasetInfo, ImageSet
from confide.data.pseudonyms import project_key
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
        local_guarantee: Of a perturbed set: what its record states, for each image of it.
    """

    train: ImageSet
    validation: ImageSet
    test: ImageSet
    info: DatasetInfo
    fingerprint: str
    declared_public: tuple[str, ...]
    bad: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    local_guarantee: Mapping[str, Any] | None = None

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


def declared(info: DatasetInfo, train: ImageSet, unit: PrivacyUnit) -> tuple[str, ...]:
    """What every run takes from its data without paying for it."""
    return (
        f"the number of training {unit.value}s, n = {train.n_units}",
        "class names and image size",
        f"normalisation constants {info.mean} and {info.std}: fixed, not computed from the images",
        "scores on validation and test images",
    )


def chosen_unit(info: DatasetInfo, unit: PrivacyUnit | None, path: Path) -> PrivacyUnit:
    """Whom the guarantee shall protect: the one asked, or the strongest that the set has ids for.

    Raises:
        DataError: If it has no ids for the one asked.
    """
    if unit is None:
        return info.units[0]
    if unit not in info.units:
        raise DataError(
            f"has no {unit.value} ids, so no guarantee per {unit.value} can be given",
            where=str(path),
            remedy=f"Choose {' or '.join(kind.value for kind in info.units)}.",
        )
    return unit


@lru_cache(maxsize=16)
def _digest(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(path: Path) -> str:
    """SHA-256 of a file."""
    status = path.stat()
    return _digest(path, status.st_size, status.st_mtime_ns)


def keyed_fingerprint(path: Path) -> str:
    """What names a file of one's own: a plain hash would let whoever knows all images but one check a
    guess."""
    digest = hashlib.blake2b(key=project_key(), digest_size=24, person=b"confide file")
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return f"keyed:{digest.hexdigest()}"
