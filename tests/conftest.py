# SPDX-License-Identifier: Apache-2.0
"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """torch's numbers are the same in every run of a test, alone or after others: what depends on them can
    be had again, and a network whose few channels all died fails nobody's CI. Noise and coins that a test
    draws from the system stay fresh, and such a test states its false-alarm rate."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of larger data sets: CONFIDE_DATA, or shared/data beside the checkout."""
    named = os.environ.get("CONFIDE_DATA")
    folder = Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "data"
    if not (folder / "bloodmnist.npz").exists():
        pytest.skip(f"no larger data sets: {folder} holds no bloodmnist.npz (set CONFIDE_DATA)")
    return folder


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder of reference figures beside the checkout."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "reference"
    if not folder.exists():
        pytest.skip(f"no reference figures: {folder} does not exist")
    return folder
