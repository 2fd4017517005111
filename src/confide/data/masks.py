# SPDX-License-Identifier: Apache-2.0
"""An npz of images and masks.

`{train,val}_images` and `{train,val}_masks` (N, H, W) uint8, and `test_*` where there is one; `*_groups`
(N,) as in `confide.data.medmnist` count where every split has them.
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from confide.errors import DataError

Pairs = dict[str, tuple[NDArray[np.uint8], NDArray[np.uint8]]]


def read_masks(path: Path, classes: int) -> tuple[Pairs, dict[str, NDArray[np.int64]] | None]:
    """Split -> images (N, C, H, W) and masks (N, H, W); split -> groups. Without a test split, validation
    serves.

    Raises:
        DataError: If the file is damaged, lacks an array, or holds undeclared classes.
    """
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            names = ["train", "val", *(["test"] if "test_images" in file.files else [])]
            found = {name: _read(file, name, path, classes) for name in names}
            grouped = "test" in names and all(f"{name}_groups" in file.files for name in names)
            groups = {name: _groups(file, name, path, len(found[name][0])) for name in names if grouped}
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError("there is no such file", where=str(path)) from None
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, ValueError, KeyError, TypeError) as error:
        pickled = "pickle" in str(error).lower()
        what = "holds pickled objects, which could run code" if pickled else "is not a readable npz file"
        raise DataError(what, where=str(path), remedy="Fetch or copy it again.") from None
    pairs = {"train": found["train"], "validation": found["val"], "test": found.get("test", found["val"])}
    if not grouped:
        return pairs, None
    _refuse_overlap(groups, path)
    return pairs, {"train": groups["train"], "validation": groups["val"], "test": groups["test"]}


def _groups(file: Any, split: str, path: Path, rows: int) -> NDArray[np.int64]:
    groups = file[f"{split}_groups"]
    if groups.shape != (rows,) or groups.dtype.kind not in "iu":
        raise DataError(f"{split}_groups are no whole numbers ({rows},)", where=str(path))
    return groups.astype(np.int64)


def _refuse_overlap(groups: dict[str, NDArray[np.int64]], path: Path) -> None:
    distinct = [np.unique(values) for values in groups.values()]
    twice = sum(map(len, distinct)) - len(np.unique(np.concatenate(distinct)))
    if twice:
        raise DataError(
            f"{twice} of the groups are in more than one split",
            where=str(path),
            why="The same person on both sides makes scores look better than they are.",
            remedy="Split by group.",
        )


def _read(file: Any, split: str, path: Path, classes: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    for key in (f"{split}_images", f"{split}_masks"):
        if key not in file.files:
            raise DataError(
                f"lacks {key}", where=str(path), why=f"It holds: {', '.join(file.files) or 'nothing'}."
            )
    images, masks = file[f"{split}_images"], file[f"{split}_masks"]
    if images.ndim == 3:
        images = images[..., None]
    if images.dtype != np.uint8 or masks.dtype != np.uint8:
        raise DataError(
            f"{split}: images are {images.dtype}, masks {masks.dtype}", where=str(path), why="Expected uint8."
        )
    if (
        images.ndim != 4
        or images.shape[-1] not in (1, 3)
        or masks.shape != images.shape[:3]
        or not len(images)
    ):
        raise DataError(f"{split}: images {images.shape} and masks {masks.shape} do not fit", where=str(path))
    if masks.max() >= classes:
        raise DataError(
            f"{split}: a mask holds the value {masks.max()}",
            where=str(path),
            why=f"Declared: 0..{classes - 1}.",
        )
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2)), masks
