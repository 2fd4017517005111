# SPDX-License-Identifier: Apache-2.0
"""Whose an image is, where no table says so: a pattern over file names, or the PatientID of a DICOM file."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import PurePosixPath

from confide.data.records import Listing, find_units
from confide.data.sources import Source
from confide.errors import DataError
from confide.privacy.units import PrivacyUnit

DICOM_AT, DICOM = 128, b"DICM"


class Owners:
    """A regular expression with one group that finds the patient's id in a file name; without one, no ids.

    Raises:
        DataError: If it is no expression, or has not exactly one group.
    """

    def __init__(self, patients: str | None) -> None:
        self._pattern: re.Pattern[str] | None = None
        if patients is None:
            return
        try:
            self._pattern = re.compile(patients)
        except re.error as error:
            raise DataError(
                f"the pattern for patients is no regular expression: {error}", where=patients
            ) from None
        if self._pattern.groups != 1:
            raise DataError(
                "the pattern for patients needs exactly one group",
                where=patients,
                remedy="For example (\\d+)_.*",
            )

    @property
    def known(self) -> bool:
        """Whether there is a pattern."""
        return self._pattern is not None

    def of(self, name: str, where: str) -> str:
        """The patient of a file, or the file's own name where there is no pattern.

        Raises:
            DataError: If the pattern finds nobody in it.
        """
        if self._pattern is None:
            return name
        found = self._pattern.search(PurePosixPath(name).name)
        if found is None or not found.group(1):
            raise DataError(
                "the pattern finds no patient in the name",
                where=where,
                remedy="Mend the pattern or the name.",
            )
        return found.group(1)


def is_dicom(source: Source, name: str) -> bool:
    """Whether a file is DICOM: by its ending, or, where it has none, by its first bytes."""
    if name.lower().endswith(".dcm"):
        return True
    if PurePosixPath(name).suffix:
        return False
    try:
        return source.head(name, DICOM_AT + 4)[DICOM_AT:] == DICOM
    except DataError:
        return False


def with_dicom_patients(source: Source, listing: Listing) -> Listing:
    """If all images are DICOM files and some name their patient, the patient is the unit."""
    if listing.units[0] is not PrivacyUnit.IMAGE or not listing.records:
        return listing
    if not all(is_dicom(source, record.name) for record in listing.records):
        return listing
    from confide.data.dicom import patient_of

    found: list[str] = []
    for record in listing.records:
        try:
            found.append(patient_of(source.read(record.name), source.where(record.name)))
        except DataError:
            found.append("")  # reported, with its reason, when its pixels are read
    if not any(found):
        return listing
    # An image without an id stands for itself.
    records = [
        replace(r, unit=f"id {who}" if who else f"file {r.unit}")
        for r, who in zip(listing.records, found, strict=True)
    ]
    return replace(listing, records=records, units=find_units(True, False))
