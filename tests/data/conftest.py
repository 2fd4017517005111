# SPDX-License-Identifier: Apache-2.0
"""Caches and keys of the data tests lie in folders of their own."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def own_folders(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh cache and project key for each test; returns the folder of both."""
    folder = tmp_path_factory.mktemp("house")
    monkeypatch.setenv("CONFIDE_CACHE", str(folder / "cache"))
    monkeypatch.setenv("CONFIDE_PROJECT_KEY", str(folder / "project.key"))
    return folder
