# SPDX-License-Identifier: Apache-2.0
"""Batches from other processes are those of this one, empty ones included."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.data.builders import good_folder

from confide.data.catalog import load
from confide.data.loading import batches
from confide.mechanisms.keys import RunKey
from confide.mechanisms.sampling import draw
from confide.privacy.schemes import PoissonSampling


@pytest.mark.parametrize("workers", [0, 2])
def test_poisson_batches_from_processes_are_complete_and_in_order(workers: int, tmp_path: Path) -> None:
    images = load(good_folder(tmp_path / "set"), size=16).train
    key = RunKey.from_os()
    scheme = PoissonSampling(0.15)
    drawn = [draw(scheme, len(images), key.stream("batch", step=step)) for step in range(40)]
    drawn.append(np.zeros(0, np.int64))  # 0.85^12 = 14 % of the others are empty as well
    found = list(batches(images, drawn, workers=workers))
    assert len(found) == len(drawn)
    for rows, (pixels, labels) in zip(drawn, found, strict=True):
        expected, targets = images.batch(rows)
        assert torch.equal(pixels, expected) and torch.equal(labels, targets)
        assert len(pixels) == len(rows)
