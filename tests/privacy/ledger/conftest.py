# SPDX-License-Identifier: Apache-2.0
"""A ledger whose head and key lie in another folder, as they do for a user."""

from __future__ import annotations

from pathlib import Path

import pytest

from confide.privacy.plan import PrivacyPlan
from confide.privacy.schemes import FullBatch


@pytest.fixture(autouse=True)
def secrets_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "config" / "ledgers"
    monkeypatch.setenv("CONFIDE_LEDGER_SECRETS", str(folder))
    return folder


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "ledger.sqlite"


@pytest.fixture
def plan() -> PrivacyPlan:
    """Full batches: ε of n steps has a closed form."""
    return PrivacyPlan(20.0, 1.0, 400, 1e-5, 5000, sampling=FullBatch())
