# SPDX-License-Identifier: Apache-2.0
"""Sentences with numbers of their own: the calibration error after the temperature, against torchmetrics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multiclass_calibration_error

from confide.reports.quality import tempered_ece


def test_tempered_error_is_that_of_softened_scores() -> None:
    generator = np.random.default_rng()
    logits = torch.tensor(generator.normal(size=(300, 4)) * 3)
    labels = generator.integers(0, 4, 300)
    stated = torch.softmax(logits, 1).numpy().astype(np.float32)
    expected = multiclass_calibration_error(
        torch.softmax(logits / 2.3, 1), torch.tensor(labels), num_classes=4, n_bins=15, norm="l1"
    )
    assert tempered_ece(stated, labels, 2.3) == pytest.approx(float(expected), abs=1e-5)


def test_a_probability_of_zero_does_no_harm() -> None:
    stated = np.array([[1.0, 0.0], [0.0, 1.0]], dtype=np.float32)
    assert tempered_ece(stated, np.array([0, 1]), 2.0) == 0.0
