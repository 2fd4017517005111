# SPDX-License-Identifier: Apache-2.0
"""Places of a test's own for what confide keeps outside a run folder."""

from __future__ import annotations

from pathlib import Path

import pytest


def places(folder: Path) -> dict[str, str]:
    """Environment variables that send the ledger, keys and caches into a folder."""
    return {
        "CONFIDE_LEDGER": str(folder / "ledger.sqlite"),
        "CONFIDE_LEDGER_SECRETS": str(folder / "secrets"),
        "CONFIDE_CHECKPOINT_KEY": str(folder / "checkpoint.key"),
        "XDG_CONFIG_HOME": str(folder / "config"),
        "XDG_DATA_HOME": str(folder / "data"),
        "XDG_CACHE_HOME": str(folder / "cache"),
    }


def isolate(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send them there for one test."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in places(folder).items():
        monkeypatch.setenv(name, value)
