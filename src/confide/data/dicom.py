# SPDX-License-Identifier: Apache-2.0
"""One DICOM image to 8-bit pixels, and whose it is.

Stored values → rescale slope and intercept → window → 0..255; MONOCHROME1 is inverted. Of the header only
the PatientID is
read, handed on for hashing, and never kept. Errors name the fault and the file, and quote no header value.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from io import BytesIO
from threading import RLock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from confide.errors import ConfideError, DataError, MissingExtraError

MOST_PIXELS = 64_000_000
PHOTOMETRIC = (
    "MONOCHROME1",
    "MONOCHROME2",
    "RGB",
    "YBR_FULL",
    "YBR_FULL_422",
    "YBR_RCT",
    "YBR_ICT",
    "PALETTE COLOR",
)
# name -> (centre, width), in Hounsfield units: the usual presets of CT workstations
WINDOWS: dict[str, tuple[float, float]] = {
    "abdomen": (60.0, 400.0),
    "bone": (400.0, 1800.0),
    "brain": (40.0, 80.0),
    "liver": (60.0, 160.0),
    "lung": (-600.0, 1500.0),
    "mediastinum": (40.0, 400.0),
}
# What CT scanners store, in Hounsfield units, where neither the caller nor the file names a window.
CT_RANGE = (-1024.0, 3071.0)
_REMEDY = "Repair or remove the file, or pass --skip-bad."
_LOCK = RLock()


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """pydicom quotes header values in its warnings and log lines; identifiers must reach neither."""
    import warnings

    with _LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger = logging.getLogger("pydicom")
        before, logger.disabled = logger.disabled, True
        try:
            yield
        finally:
            logger.disabled = before


def _header(data: bytes, where: str, *, whole: bool) -> Any:
    try:
        from pydicom import dcmread
    except ImportError:
        raise MissingExtraError("pydicom", "dicom", "reading DICOM files") from None
    try:
        return dcmread(BytesIO(data), stop_before_pixels=not whole)
    except Exception:
        # Whatever its parser stumbles over, the file is bad; its own words may quote the header.
        raise DataError("is no readable DICOM file", where=where, remedy=_REMEDY) from None


def patient_of(data: bytes, where: str) -> str:
    """The PatientID, or "" where there is none.

    Raises:
        DataError: If it is no DICOM file.
    """
    with _silence():
        return str(_header(data, where, whole=False).get("PatientID", "") or "").strip()


def size_of(data: bytes, where: str) -> tuple[int, int]:
    """Width and height, as the header states them.

    Raises:
        DataError: If it is no DICOM file, or states none.
    """
    with _silence():
        header = _header(data, where, whole=False)
        height, width = header.get("Rows"), header.get("Columns")
    if not height or not width:
        raise DataError("the DICOM file does not say its size", where=where, remedy=_REMEDY)
    return int(width), int(height)


def read_dicom(data: bytes, where: str, *, window: str | None = None) -> NDArray[np.uint8]:
    """Pixels (H, W) or (H, W, 3).

    Args:
        window: A name of WINDOWS, or None: the first window of the file, else the range of a CT
            scanner, else the full range of the bits stored.

    Raises:
        DataError: If the file is damaged, has several frames, or is of a kind that is not supported.
    """
    with _silence():
        try:
            return _pixels(_header(data, where, whole=True), where, window)
        except ConfideError:
            raise
        except Exception:
            raise DataError(
                "the pixels of the DICOM file cannot be decoded", where=where, remedy=_REMEDY
            ) from None


def _checked(dataset: Any, where: str) -> None:
    reason = ""
    photometric = str(dataset.get("PhotometricInterpretation", ""))
    if "PixelData" not in dataset:
        reason = "the DICOM file has no PixelData"
    elif not dataset.get("Rows") or not dataset.get("Columns"):
        reason = "the DICOM file does not say its size"
    elif int(dataset.get("NumberOfFrames", 1) or 1) != 1:
        reason = f"the DICOM file has {int(dataset.NumberOfFrames)} frames, expected one"
    elif int(dataset.Rows) * int(dataset.Columns) > MOST_PIXELS:
        reason = f"the DICOM image has {dataset.Rows}×{dataset.Columns} pixels, at most 64 million"
    elif photometric not in PHOTOMETRIC:
        reason = "the DICOM file has a photometric interpretation that is not supported"
    elif dataset.get("BitsAllocated") not in (8, 16):
        reason = "the DICOM pixels are neither 8 nor 16 bits wide"
    elif dataset.get("SamplesPerPixel") != (1 if photometric.startswith(("MONO", "PALETTE")) else 3):
        reason = "photometric interpretation and samples per pixel of the DICOM file contradict each other"
    elif "TransferSyntaxUID" not in dataset.file_meta:
        reason = "the DICOM file names no transfer syntax"
    if reason:
        raise DataError(reason, where=where, remedy=_REMEDY)


def _pixels(dataset: Any, where: str, window: str | None) -> NDArray[np.uint8]:
    from pydicom.pixels import apply_color_lut, apply_modality_lut

    _checked(dataset, where)
    # Rows and columns follow from here on: pydicom converts YBR to RGB by itself.
    stored = dataset.pixel_array
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        return (apply_color_lut(stored, dataset) >> 8).astype(np.uint8)
    if stored.ndim == 3:
        shift = max(0, int(dataset.BitsStored) - 8)
        return (stored >> shift).astype(np.uint8)
    values = np.asarray(apply_modality_lut(stored, dataset), dtype=np.float64)
    low, high = _range(dataset, window)
    if not np.isfinite(values).all() or not np.isfinite([low, high]).all() or not high > low:
        raise DataError("rescale or window of the DICOM file is not finite", where=where, remedy=_REMEDY)
    shown = grey(values, low, high)
    return 255 - shown if dataset.PhotometricInterpretation == "MONOCHROME1" else shown


def grey(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    """`low` becomes 0, `high` 255, and what lies beyond is clamped."""
    return ((values.clip(low, high) - low) * (255 / (high - low))).round().astype(np.uint8)


def limits(window: str) -> tuple[float, float]:
    """What becomes black and white: a name of WINDOWS, or the two values themselves, such as -160:240.

    Raises:
        DataError: If it is neither.
    """
    if window in WINDOWS:
        centre, width = WINDOWS[window]
        return centre - width / 2, centre + width / 2
    try:
        low, high = (float(word) for word in window.split(":"))
    except ValueError:
        low, high = 0.0, 0.0
    if not (high > low and np.isfinite([low, high]).all()):
        raise DataError(f"there is no window {window!r}", remedy=f"Choose {', '.join(WINDOWS)}, or LOW:HIGH.")
    return low, high


def _range(dataset: Any, window: str | None) -> tuple[float, float]:
    """What becomes black and white, in rescaled values. Fixed by preset or header, not by the pixels."""
    if window is not None:
        return limits(window)
    if "WindowCenter" in dataset and "WindowWidth" in dataset:
        first = [
            np.atleast_1d(np.asarray(dataset[key].value, dtype=float))[0]
            for key in ("WindowCenter", "WindowWidth")
        ]
        # Some write 0 and 0 for "none"; another width of 0 is a fault.
        if first[0] or first[1]:
            return float(first[0] - first[1] / 2), float(first[0] + first[1] / 2)
    if dataset.get("Modality") == "CT":
        return CT_RANGE
    bits, signed = int(dataset.BitsStored), bool(dataset.PixelRepresentation)
    ends = np.array([-(2 ** (bits - 1)), 2 ** (bits - 1) - 1] if signed else [0, 2**bits - 1], dtype=float)
    ends = ends * float(dataset.get("RescaleSlope", 1)) + float(dataset.get("RescaleIntercept", 0))
    return float(ends.min()), float(ends.max())
