# SPDX-License-Identifier: Apache-2.0
"""What a data set says about its files before any pixel is read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from confide.privacy.units import PrivacyUnit


@dataclass(frozen=True, slots=True)
class Record:
    """One image.

    Attributes:
        name: Its name in the source. It may hold a patient's id, so it is not shown by `repr`.
        label: Class 0..K-1, or -1 for segmentation.
        unit: Whose it is, in the data set's own words; hashed before anything is stored.
        split: "train", "validation", "test", or None: to be drawn.
        mask: Name of its mask.
    """

    name: str = field(repr=False)
    label: int
    unit: str = field(repr=False)
    split: str | None = None
    mask: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Listing:
    """All images of a data set, its classes, and the units that it has ids for, the strongest first.

    Attributes:
        columns: Further columns for tables by subgroup, one value a record.
        bad: Where and why, for each image that was left out because its line or its mask cannot be used.
        mask_values: What a value in a mask file means, where it is not the class itself.
        undivided: All images are for training: there is one person, whom no split can divide.
    """

    records: list[Record] = field(repr=False)
    classes: tuple[str, ...]
    units: tuple[PrivacyUnit, ...]
    task: Literal["classification", "segmentation"] = "classification"
    columns: dict[str, list[str]] = field(default_factory=dict[str, list[str]], repr=False)
    bad: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]], repr=False)
    mask_values: dict[int, int] = field(default_factory=dict[int, int])
    undivided: bool = False


def find_units(patients: bool, lesions: bool) -> tuple[PrivacyUnit, ...]:
    """The units that there are ids for, the strongest first."""
    found = [PrivacyUnit.PATIENT] if patients else [PrivacyUnit.LESION] if lesions else []
    return (*found, PrivacyUnit.IMAGE)
