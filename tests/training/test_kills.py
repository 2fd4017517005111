# SPDX-License-Identifier: Apache-2.0
"""ε(ledger) ≥ ε(everything released), after `kill -9` at random moments of a real run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.training.killed_run import BLOCK, DELTA, gaussian_delta

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("kills", [10, pytest.param(100, marks=pytest.mark.slow)])
def test_the_ledger_never_says_less_than_was_released(kills: int, tmp_path: Path) -> None:
    """δ at the ledger's ε of what was counted is at most the ledger's δ, by a formula of its own."""
    command = [sys.executable, "-m", "tests.training.killed_run", str(tmp_path), str(kills)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1200)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert len(found["account"]) == kills
    for entry in found["account"]:
        assert entry["charged"] >= entry["released"]
        assert entry["delta_of_released"] <= DELTA
    last = found["account"][-1]
    print(f"{kills} kills: {last['released']} updates released, {last['charged']} charged")
    # None of ten kills after a released update: 2^-10, and then nothing was shown.
    assert last["released"] > 0 or kills == 10
    # A kill costs at most what was leased and not used.
    assert last["charged"] <= last["released"] + BLOCK * kills
    assert found["checkpoint"] <= last["charged"]


def test_the_oracle_finds_a_step_that_was_not_charged() -> None:
    """At the ε of 400 steps, 410 have more than their δ."""
    low, high = 0.0, 50.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if gaussian_delta(middle, 400) > DELTA else (low, middle)
    assert gaussian_delta(high, 400) <= DELTA * 1.0001 < gaussian_delta(high, 410)
