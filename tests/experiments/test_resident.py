# SPDX-License-Identifier: Apache-2.0
"""Peaks of memory, held against blocks of a known size."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from confide.experiments.resident import peak_mib, restart_peak

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a peak cannot be forgotten")

_CHILD = "from confide.experiments.resident import peak_mib; print(peak_mib())"


def _block(mib: int) -> np.ndarray:
    return np.ones((mib, 2**17))


def test_a_peak_is_what_was_held_at_once() -> None:
    before = restart_peak()
    for _ in range(2):  # the second takes the place of the first
        assert _block(200).sum() == 200 * 2**17
    assert peak_mib() - before == pytest.approx(200, abs=20)


def test_a_peak_that_was_forgotten_is_not_counted_again() -> None:
    _block(300)
    begin = restart_peak()
    assert peak_mib() - begin < 20


def test_a_child_does_not_inherit_the_peak_of_its_parent() -> None:
    held = _block(1000)
    out = subprocess.run([sys.executable, "-c", _CHILD], capture_output=True, text=True, check=True)
    assert float(out.stdout) < held.nbytes / 2**20 - 100
