# SPDX-License-Identifier: Apache-2.0
"""Names that records and command lines hold."""

from __future__ import annotations

from confide.privacy.units import Adjacency, PrivacyUnit


def test_names_are_their_values() -> None:
    assert [str(unit) for unit in PrivacyUnit] == ["image", "patient", "lesion", "tile"]
    assert [str(relation) for relation in Adjacency] == ["add-or-remove-one", "replace-one"]
    assert PrivacyUnit("patient") is PrivacyUnit.PATIENT
