# SPDX-License-Identifier: Apache-2.0
"""The MedMNIST file format: one npz with images and labels of three splits (Yang et al. 2023).

Keys `{train,val,test}_images` (N, H, W), (N, H, W, 3) or (N, D, H, W) and `{split}_labels` (N, 1). Optional
`{split}_groups` (N,): the number of the lesion, tile or patient that an image shows, shared over the splits.
"""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from confide.errors import DataError

SPLITS = {"train": "train", "val": "validation", "test": "test"}


@dataclass(frozen=True)
class RawSplit:
    """Images (N, C, H, W) uint8 or float32, labels (N,) int64, groups (N,) int64 or None."""

    images: NDArray[Any]
    labels: NDArray[np.int64]
    groups: NDArray[np.int64] | None


def read_npz(path: Path, classes: int | None = None, *, findings: bool = False) -> dict[str, RawSplit]:
    """Read and check a file.

    Args:
        path: The npz file. classes: Number of classes, where it is known: labels must lie below it.
            findings: Labels are (N, F), 1 for each of F findings that an image shows; they become 0 for
            none and 1
            for any.

    Returns:
        "train", "validation", "test" -> the split.

    Raises:
        DataError: What is wrong, in which file and array, why, and the remedy.
    """
    if not path.exists():
        raise DataError(
            "there is no such file",
            where=str(path),
            remedy="Check the path; `confide data list` shows what is here.",
        )
    try:
        # Opened here, because numpy forgets to close a file that turns out to be damaged.
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            missing = [
                key
                for split in SPLITS
                for key in (f"{split}_images", f"{split}_labels")
                if key not in file.files
            ]
            if missing:
                raise DataError(
                    f"lacks {', '.join(missing)}",
                    where=str(path),
                    why=f"It holds: {', '.join(file.files) or 'nothing'}.",
                    remedy="A MedMNIST file has {train,val,test}_{images,labels}.",
                )
            raw = {split: _read_split(file, split, path, classes, findings) for split in SPLITS}
    except DataError:
        raise
    except (
        OSError,
        EOFError,
        zipfile.BadZipFile,
        zlib.error,
        ValueError,
        KeyError,
        NotImplementedError,
        AttributeError,
        TypeError,
    ) as error:
        pickled = "pickle" in str(error).lower()
        raise DataError(
            "holds pickled objects, which could run code" if pickled else "is not a readable npz file",
            where=str(path),
            why="" if pickled else " ".join(str(error).split())[:200],
            remedy="Save plain arrays with numpy.savez." if pickled else "Fetch or copy the file again.",
        ) from None
    _check_together(raw, path)
    return {SPLITS[split]: value for split, value in raw.items()}


def _read_split(file: Any, split: str, path: Path, classes: int | None, findings: bool) -> RawSplit:
    where = f"{path}, {split}_images"
    images = file[f"{split}_images"]
    volumes = images.ndim == 4 and images.shape[-1] not in (1, 3)
    if images.ndim == 3 or volumes:
        images = images[..., None]
    if images.ndim != (5 if volumes else 4) or images.shape[-1] not in (1, 3) or 0 in images.shape:
        raise DataError(
            f"has shape {images.shape}",
            where=where,
            why="Expected (N, H, W) or (N, H, W, 3) with at least one image.",
        )
    if images.dtype not in (np.uint8, np.float32):
        raise DataError(f"has dtype {images.dtype}", where=where, why="Expected uint8, or float32 in [0, 1].")
    if images.dtype == np.float32:
        if not np.isfinite(images).all():
            row = int(np.flatnonzero(~np.isfinite(images).reshape(len(images), -1).all(1))[0])
            raise DataError(
                f"image {row} holds NaN or infinite pixels", where=where, remedy="Remove or repair the image."
            )
        if images.min() < 0 or images.max() > 1:
            raise DataError(
                f"pixels range from {images.min():g} to {images.max():g}", where=where, why="Expected [0, 1]."
            )
    labels = file[f"{split}_labels"]
    if findings and labels.ndim == 2 and labels.dtype.kind in "iu" and set(np.unique(labels)) <= {0, 1}:
        labels = labels.any(1).astype(np.int64)
    labels = _labels(labels, f"{path}, {split}_labels", len(images), classes)
    groups = None
    if f"{split}_groups" in file.files:
        groups = file[f"{split}_groups"]
        if groups.shape != (len(images),) or groups.dtype.kind not in "iu":
            raise DataError(
                f"is {groups.dtype} of shape {groups.shape}",
                where=f"{path}, {split}_groups",
                why=f"Expected integers ({len(images)},).",
            )
        groups = groups.astype(np.int64)
    return RawSplit(np.ascontiguousarray(np.moveaxis(images, -1, 1)), labels, groups)


def _labels(labels: NDArray[Any], where: str, rows: int, classes: int | None) -> NDArray[np.int64]:
    if labels.dtype.kind not in "iu":
        raise DataError(f"has dtype {labels.dtype}", where=where, why="Labels are whole numbers 0..K-1.")
    if labels.shape not in ((rows,), (rows, 1)):
        raise DataError(
            f"has shape {labels.shape}", where=where, why=f"Expected ({rows}, 1): one label for each image."
        )
    values = labels.reshape(rows).astype(np.int64)
    highest = np.inf if classes is None else classes - 1
    if values.min() < 0 or values.max() > highest:
        wrong = values[(values < 0) | (values > highest)][0]
        raise DataError(
            f"holds the label {wrong}", where=where, why=f"Labels are 0..{classes - 1 if classes else 'K-1'}."
        )
    return values


def _check_together(raw: dict[str, RawSplit], path: Path) -> None:
    """Splits have the same kind of images, all or none have groups, and no group is on two sides."""
    shapes = {split.images.shape[1:] for split in raw.values()}
    if len(shapes) != 1:
        raise DataError(
            "the splits hold images of different shapes", where=str(path), why=f"{sorted(shapes)}."
        )
    grouped = [split.groups is not None for split in raw.values()]
    if any(grouped) and not all(grouped):
        raise DataError(
            "only some splits have groups", where=str(path), remedy="Give {train,val,test}_groups or none."
        )
    if all(grouped):
        seen: dict[str, set[int]] = {
            SPLITS[name]: set(np.unique(s.groups).tolist()) for name, s in raw.items() if s.groups is not None
        }
        names = list(seen)
        for i, one in enumerate(names):
            for other in names[i + 1 :]:
                shared = seen[one] & seen[other]
                if shared:
                    raise DataError(
                        f"{len(shared)} of the groups are in both {one} and {other}",
                        where=str(path),
                        why="The same person on both sides makes scores look better than they are.",
                        remedy="Split by group.",
                    )
