# SPDX-License-Identifier: Apache-2.0
"""Whom a guarantee protects, and which two data sets it cannot tell apart."""

from __future__ import annotations

from enum import StrEnum


class PrivacyUnit(StrEnum):
    """What is added or removed as a whole.

    A guarantee per image says little about a patient with many images.
    """

    IMAGE = "image"
    PATIENT = "patient"
    LESION = "lesion"
    TILE = "tile"


class Adjacency(StrEnum):
    """Which data sets are neighbours."""

    ADD_OR_REMOVE_ONE = "add-or-remove-one"
    REPLACE_ONE = "replace-one"
