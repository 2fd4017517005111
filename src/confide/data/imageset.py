# SPDX-License-Identifier: Apache-2.0
"""One split of a data set: decoded images, targets, and whose they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from confide.errors import DataError
from confide.privacy.units import PrivacyUnit

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class UnitRows:
    """Which rows belong to which unit: rows sorted by unit, and where each unit starts."""

    order: Rows
    starts: Rows

    @classmethod
    def of(cls, unit_index: Sequence[int] | Rows) -> UnitRows:
        """Group rows by their unit number 0..U-1.

        Raises:
            DataError: If a number is missing, so that a unit would have no row.
        """
        index = np.asarray(unit_index, dtype=np.int64)
        if index.ndim != 1:
            raise DataError(f"unit numbers have shape {index.shape}", remedy="Give one integer per row.")
        negative = len(index) > 0 and index.min() < 0
        counts = np.bincount(index) if len(index) and not negative else np.zeros(0, np.int64)
        if negative or (counts == 0).any():
            raise DataError(
                "unit numbers are not 0..U-1",
                remedy="Number the units with numpy.unique(..., return_inverse=True).",
            )
        return cls(
            np.argsort(index, kind="stable"), np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        )

    @property
    def n_units(self) -> int:
        """Number of units."""
        return len(self.starts) - 1

    def rows_of(self, units: Rows) -> tuple[Rows, Rows]:
        """The rows of these units, unit after unit, and for each row the position of its unit in `units`."""
        counts = self.starts[units + 1] - self.starts[units]
        owner = np.repeat(np.arange(len(units)), counts)
        within = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
        return self.order[self.starts[units][owner] + within], owner.astype(np.int64)


@dataclass(frozen=True)
class DatasetInfo:
    """What is publicly known of a data set.

    Attributes:
        mean, std: Normalisation constants, one a channel, for pixels scaled to [0, 1]. They are published or
            conventional, never computed from the images at hand.
        units: The privacy units that it has ids for, the strongest first.
        sha256, md5: Checksums, as far as they are known: of the file of this project, and of the publisher's
            files, one for each of `sizes`.
        counts: Images of train, validation and test as published; one number where nobody has divided them.
            Of volumes their number.
        url: The official source; empty where a registration stands before the download.
        window: Of volumes and DICOM files: what is shown black and white where the caller does not say.
        file: File or folder name where it is not `name`.npz.
        layout: Which reader it takes, see `confide.data.layouts`.
        sizes: Image sides that the publisher offers.
    """

    name: str
    title: str
    classes: tuple[str, ...]
    channels: int
    task: Literal["classification", "segmentation"] = "classification"
    units: tuple[PrivacyUnit, ...] = (PrivacyUnit.IMAGE,)
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    licence: str = ""
    citation: str = ""
    remarks: str = ""
    sha256: str = ""
    md5: tuple[str, ...] = ()
    counts: tuple[int, ...] = ()
    url: str = ""
    window: str = ""
    file: str = ""
    layout: str = "medmnist"
    sizes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        # 0.5 and 0.5 map [0, 1] to [-1, 1]: MedMNIST's own convention, the same for every set.
        if not self.mean:
            object.__setattr__(self, "mean", (0.5,) * self.channels)
            object.__setattr__(self, "std", (0.5,) * self.channels)


@dataclass(frozen=True)
class ImageSet:
    """One split.

    Attributes:
        images: (N, C, H, W) or (N, C, D, H, W), uint8 or float32 in [0, 1]; an array or a memory map.
        targets: (N,) int64 classes, or (N, H, W) masks, int64 or uint8; a batch has int64.
        unit_index: (N,) int64, 0..U-1: the privacy unit of each row.
        unit: What a unit is.
        columns: Further columns for subgroup tables, each (N,).
    """

    images: NDArray[Any]
    targets: NDArray[Any]
    unit_index: Rows
    unit: PrivacyUnit
    info: DatasetInfo
    split: str
    columns: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        lengths = {
            len(self.images),
            len(self.targets),
            len(self.unit_index),
            *map(len, self.columns.values()),
        }
        if len(lengths) != 1:
            raise DataError(
                f"images, targets, units, columns of {self.split} have different lengths: {sorted(lengths)}"
            )

    def __len__(self) -> int:
        """Number of rows N."""
        return len(self.images)

    @cached_property
    def _grouping(self) -> UnitRows:
        return UnitRows.of(self.unit_index)

    @property
    def n_units(self) -> int:
        """Number of privacy units U."""
        return self._grouping.n_units

    def rows_of(self, units: Rows) -> tuple[Rows, Rows]:
        """The rows of these units, unit after unit, and for each row the position of its unit in `units`."""
        return self._grouping.rows_of(units)

    def batch(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Normalised float32 images (B, C, ...) and targets (B, ...) of these rows; also of none."""
        pixels = torch.from_numpy(np.ascontiguousarray(self.images[rows]))
        scale = 255.0 if pixels.dtype == torch.uint8 else 1.0
        shape = (1, -1, *[1] * (pixels.dim() - 2))
        mean = torch.tensor(self.info.mean).view(shape)
        std = torch.tensor(self.info.std).view(shape)
        images = pixels.float().sub_(mean * scale).div_(std * scale)
        return images, torch.from_numpy(np.ascontiguousarray(self.targets[rows])).long()
