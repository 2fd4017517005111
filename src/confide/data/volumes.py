# SPDX-License-Identifier: Apache-2.0
"""NIfTI volumes, and the Decathlon layout (`imagesTr/x.nii.gz`, `labelsTr/x.nii.gz`): one volume is one
patient."""

from __future__ import annotations

import gzip
import json
import threading
import zlib
from functools import lru_cache
from io import BytesIO
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from confide.data.dicom import grey, limits
from confide.data.records import Listing, Record
from confide.data.sources import Source
from confide.errors import ConfideError, DataError, MissingExtraError
from confide.privacy.units import PrivacyUnit

MOST_VOXELS = 1 << 28
MOST_UNPACKED = 1 << 30
ENDINGS = (".nii", ".nii.gz")
_REMEDY = "Repair or remove the file, or pass --skip-bad."


def is_volume(name: str) -> bool:
    """Whether a file name is that of a NIfTI volume."""
    return name.lower().endswith(ENDINGS)


def read_volume(data: bytes, where: str) -> NDArray[np.float32]:
    """Voxels (X, Y, Z), rescaled as the header says.

    Raises:
        DataError: If it is damaged, not three-dimensional, too large, or holds NaN.
    """
    try:
        from nibabel import Nifti1Image
    except ImportError:
        raise MissingExtraError("nibabel", "dicom", "reading NIfTI files") from None
    try:
        image: Any = Nifti1Image.from_bytes(_unpacked(data, where))
        shape = tuple(size for i, size in enumerate(image.shape) if i < 3 or size != 1)
        if len(shape) != 3 or min(shape) < 1:
            raise DataError(
                f"the volume has shape {image.shape}, expected three sizes", where=where, remedy=_REMEDY
            )
        if int(np.prod(shape, dtype=np.int64)) > MOST_VOXELS:
            raise DataError(
                f"the volume has {shape} voxels", where=where, why="At most 268 million.", remedy=_REMEDY
            )
        voxels = np.asarray(image.get_fdata(dtype=np.float32)).reshape(shape)
    except ConfideError:
        raise
    except Exception:
        # Whatever the parser stumbles over, the file is bad; its own words may quote the header.
        raise DataError("is no readable NIfTI file", where=where, remedy=_REMEDY) from None
    if not np.isfinite(voxels).all():
        raise DataError("the volume holds NaN or infinite voxels", where=where, remedy=_REMEDY)
    return voxels


def _unpacked(data: bytes, where: str) -> bytes:
    if data[:2] != b"\x1f\x8b":
        return data
    try:
        with gzip.GzipFile(fileobj=BytesIO(data)) as file:
            plain = file.read(MOST_UNPACKED + 1)
    except (OSError, EOFError, zlib.error):
        raise DataError("the compressed file is damaged", where=where, remedy=_REMEDY) from None
    if len(plain) > MOST_UNPACKED:
        raise DataError("the file unpacks to more than 1 GiB", where=where, remedy=_REMEDY)
    return plain


class VolumeSlices(Source):
    """The axial slices of another source's volumes as files `name#k` in numpy's own format, turned as
    radiologists do."""

    def __init__(self, inner: Source, window: str | None, classes: int) -> None:
        self.path = inner.path
        self._inner, self._classes = inner, classes
        self._limits = limits(window or "abdomen")
        self._lock = threading.Lock()
        # Slices are asked for in order: the image and the mask of one patient are enough.
        self._volume = lru_cache(maxsize=2)(self._read)

    def names(self) -> list[str]:
        """The names of the volumes, not of slices."""
        return self._inner.names()

    def _read(self, name: str) -> NDArray[np.uint8]:
        where = self.where(name)
        voxels = read_volume(self._inner.read(name), where)
        if "labels" not in PurePosixPath(name).parts[-2]:
            return grey(voxels, *self._limits)
        if (voxels != np.round(voxels)).any() or voxels.min() < 0 or voxels.max() >= self._classes:
            raise DataError(
                "the mask holds undeclared classes", where=where, why=f"Declared: 0..{self._classes - 1}."
            )
        return voxels.astype(np.uint8)

    def read(self, name: str) -> bytes:
        """One slice."""
        volume, _, number = name.rpartition("#")
        with self._lock:
            voxels = self._volume(volume)
        if int(number) >= voxels.shape[2]:
            raise DataError("image and mask have different numbers of slices", where=self.where(volume))
        file = BytesIO()
        np.save(file, np.rot90(voxels[:, :, int(number)]))
        return file.getvalue()


def list_decathlon(source: Source) -> Listing:
    """All slices of all volumes; classes are those of `dataset.json`, else background and foreground.

    Raises:
        DataError: If a volume has no mask, or a header cannot be read.
    """
    names = source.names()
    masks = {PurePosixPath(name).name: name for name in names if is_volume(name) and "labelsTr" in name}
    records: list[Record] = []
    for name in names:
        if not is_volume(name) or "imagesTr" not in PurePosixPath(name).parts:
            continue
        mask = masks.get(PurePosixPath(name).name)
        if mask is None:
            raise DataError("the volume has no mask in labelsTr/", where=source.where(name))
        depth = read_volume(source.read(mask), source.where(mask)).shape[2]
        patient = PurePosixPath(name).name
        records += [Record(f"{name}#{k}", -1, patient, None, f"{mask}#{k}") for k in range(depth)]
    return Listing(records, _classes(source, names), (PrivacyUnit.PATIENT, PrivacyUnit.IMAGE), "segmentation")


def _classes(source: Source, names: list[str]) -> tuple[str, ...]:
    described = [name for name in names if PurePosixPath(name).name == "dataset.json"]
    if not described:
        return "background", "foreground"
    try:
        labels = json.loads(source.read(described[0]))["labels"]
        return tuple(str(labels[str(k)]) for k in range(len(labels)))
    except (ValueError, KeyError, TypeError):
        raise DataError("names no labels 0..K-1", where=source.where(described[0])) from None
