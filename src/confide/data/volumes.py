# SPDX-License-Identifier: Apache-2.0
"""NIfTI volumes, and the Decathlon layout (`imagesTr/x.nii.gz`, `labelsTr/x.nii.gz`): one volume is one
patient."""

from __future__ import annotations

import gzip
import hashlib
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
OWN_WINDOW = "volume"
_REMEDY = "Repair or remove the file, or pass --skip-bad."


def _need_nibabel() -> None:
    try:
        import nibabel  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except ImportError:
        raise MissingExtraError("nibabel", "dicom", "reading NIfTI files") from None


def is_volume(name: str) -> bool:
    """Whether a file name is that of a NIfTI volume."""
    return name.lower().endswith(ENDINGS)


def volume_shape(data: bytes, where: str) -> tuple[int, ...]:
    """The sizes that the header of a volume states; its voxels are not unpacked.

    Raises:
        DataError: If it is no NIfTI file.
    """
    _need_nibabel()
    from nibabel import Nifti1Header

    try:
        start = data[:352]
        if start[:2] == b"\x1f\x8b":
            with gzip.GzipFile(fileobj=BytesIO(data)) as file:
                start = file.read(352)
        header: Any = Nifti1Header.from_fileobj(BytesIO(start))
        return tuple(int(size) for size in header.get_data_shape())
    except Exception:
        raise DataError("is no readable NIfTI file", where=where, remedy=_REMEDY) from None


def read_volume(data: bytes, where: str, *, modality: int | None = None) -> NDArray[np.float32]:
    """Voxels (X, Y, Z), rescaled as the header says.

    Args:
        modality: Which of several volumes in one file is meant; None: there must be one.

    Raises:
        DataError: If it is damaged, not three-dimensional, too large, or holds NaN.
    """
    _need_nibabel()
    from nibabel import Nifti1Image

    try:
        image: Any = Nifti1Image.from_bytes(_unpacked(data, where))
        if modality is not None and len(image.shape) == 4:
            image = image.slicer[..., modality : modality + 1]
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
    radiologists do.

    Args:
        window: See `confide.data.dicom.limits`; "volume": each volume's own 0.5 % and 99.5 % values. That
            is a
            function of one patient's own voxels, so no patient's picture depends on another's.
        masks: Names of the volumes that are masks.
        modality: Which volume of a file with several is read.
    """

    def __init__(
        self,
        inner: Source,
        window: str,
        classes: int,
        *,
        masks: frozenset[str],
        modality: int | None = None,
    ) -> None:
        self.path = inner.path
        self._inner, self._classes = inner, classes
        self._limits = None if window == OWN_WINDOW else limits(window)
        self._masks, self._modality = masks, modality
        self._lock = threading.Lock()
        # Slices are asked for in order: the image and the mask of one patient are enough.
        self._volume = lru_cache(maxsize=2)(self._read)
        self._digest = lru_cache(maxsize=2)(lambda name: hashlib.sha256(inner.read(name)).digest())

    def names(self) -> list[str]:
        """The names of the volumes, not of slices."""
        return self._inner.names()

    def _read(self, name: str) -> NDArray[np.uint8]:
        where = self.where(name)
        mask = name in self._masks
        voxels = read_volume(self._inner.read(name), where, modality=None if mask else self._modality)
        if not mask:
            low, high = self._limits or (float(x) for x in np.percentile(voxels, [0.5, 99.5]))
            return grey(voxels, low, max(high, low + 1e-6))
        if (voxels != np.round(voxels)).any() or voxels.min() < 0 or voxels.max() >= self._classes:
            raise DataError(
                "the mask holds undeclared classes", where=where, why=f"Declared: 0..{self._classes - 1}."
            )
        return voxels.astype(np.uint8)

    def identity(self, name: str) -> bytes:
        """The file that a slice comes from, and its number: the window is no part of whose picture it is."""
        volume, mark, number = name.rpartition("#")
        if not mark:
            return self._inner.read(name)
        with self._lock:
            return self._digest(volume) + number.encode()

    def read(self, name: str) -> bytes:
        """One slice, or a plain file of the other source."""
        volume, mark, number = name.rpartition("#")
        if not mark:
            return self._inner.read(name)
        with self._lock:
            voxels = self._volume(volume)
        if int(number) >= voxels.shape[2]:
            raise DataError("image and mask have different numbers of slices", where=self.where(volume))
        file = BytesIO()
        np.save(file, np.rot90(voxels[:, :, int(number)]))
        return file.getvalue()


def own_window(source: Source) -> str:
    """The window of a Decathlon folder where nobody names one: by what `dataset.json` says was scanned."""
    described = [name for name in source.names() if PurePosixPath(name).name == "dataset.json"]
    try:
        scanned = json.loads(source.read(described[0]))["modality"]["0"] if described else "CT"
    except (ValueError, KeyError, TypeError):
        scanned = "CT"
    return "abdomen" if scanned == "CT" else OWN_WINDOW


def list_decathlon(source: Source, *, skip_bad: bool = False) -> Listing:
    """All slices of all volumes; classes are those of `dataset.json`, else background and foreground.

    Args:
        skip_bad: Leave out and list volumes that have no mask or whose mask has no readable header.

    Raises:
        DataError: If a volume has no mask, or a header cannot be read.
    """
    _need_nibabel()
    names = source.names()
    masks = {PurePosixPath(name).name: name for name in names if is_volume(name) and "labelsTr" in name}
    records: list[Record] = []
    bad: list[tuple[str, str]] = []
    for name in names:
        if not is_volume(name) or "imagesTr" not in PurePosixPath(name).parts:
            continue
        try:
            records += _slices(source, name, masks)
        except DataError as error:
            if not skip_bad:
                raise
            bad.append((error.where, error.what))
    units = (PrivacyUnit.PATIENT, PrivacyUnit.IMAGE)
    return Listing(records, _classes(source, names), units, "segmentation", {}, bad)


def _slices(source: Source, name: str, masks: dict[str, str]) -> list[Record]:
    """A record for each slice of a volume, as many as its mask has."""
    patient = PurePosixPath(name).name
    mask = masks.get(patient)
    if mask is None:
        raise DataError("the volume has no mask in labelsTr/", where=source.where(name))
    depth = (*volume_shape(source.read(mask), source.where(mask)), 1, 1, 1)[2]
    return [Record(f"{name}#{k}", -1, patient, None, f"{mask}#{k}") for k in range(depth)]


def _classes(source: Source, names: list[str]) -> tuple[str, ...]:
    described = [name for name in names if PurePosixPath(name).name == "dataset.json"]
    if not described:
        return "background", "foreground"
    try:
        labels = json.loads(source.read(described[0]))["labels"]
        return tuple(str(labels[str(k)]) for k in range(len(labels)))
    except (ValueError, KeyError, TypeError):
        raise DataError("names no labels 0..K-1", where=source.where(described[0])) from None
