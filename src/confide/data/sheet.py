# SPDX-License-Identifier: Apache-2.0
"""A contact sheet: some images of each class side by side, as one PNG."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from confide.data.imageset import ImageSet
from confide.errors import DataError


def contact_sheet(images: ImageSet, path: Path, *, per_class: int = 8, side: int = 96) -> None:
    """Write a PNG with one row of images a class (classification) or images with their masks (segmentation).

    It shows patients' images as they are: nothing about it is private.

    Raises:
        DataError: If the file cannot be written.
    """
    from PIL import Image

    rows = _chosen(images, per_class)
    width = max(len(row) for row in rows)
    sheet = np.zeros((len(rows) * side, width * side, 3), dtype=np.uint8)
    for i, row in enumerate(rows):
        for j, index in enumerate(row):
            tile = Image.fromarray(_tile(images, int(index))).resize((side, side), Image.Resampling.NEAREST)
            sheet[i * side : (i + 1) * side, j * side : (j + 1) * side] = np.asarray(tile)
    try:
        Image.fromarray(sheet).save(path, format="PNG")
    except OSError as error:
        raise DataError(
            "the contact sheet cannot be written", where=str(path), why=str(error.strerror or error)
        ) from None


def _chosen(images: ImageSet, per_class: int) -> list[np.ndarray]:
    if images.targets.ndim > 1:
        return [
            np.arange(start, min(start + per_class, len(images)))
            for start in range(0, min(32, len(images)), per_class)
        ]
    found = [np.flatnonzero(images.targets == k)[:per_class] for k in range(len(images.info.classes))]
    return [rows for rows in found if len(rows)]


def _tile(images: ImageSet, row: int) -> np.ndarray:
    """One image as (H, W, 3) uint8; of a volume its middle slice; a mask is drawn in red."""
    pixels = np.asarray(images.images[row])
    if pixels.ndim == 4:
        pixels = pixels[:, pixels.shape[1] // 2]
    shown = pixels if pixels.dtype == np.uint8 else (pixels * 255).round().astype(np.uint8)
    tile = np.repeat(shown, 3, axis=0) if len(shown) == 1 else shown
    tile = np.ascontiguousarray(tile.transpose(1, 2, 0))
    if images.targets.ndim > 1:
        inside = np.asarray(images.targets[row]) > 0
        tile[inside, 0] = tile[inside, 0] // 2 + 127
    return tile
