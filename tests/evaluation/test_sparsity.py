# SPDX-License-Identifier: Apache-2.0
"""Sparsity, clipped shares and histograms, counted by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from confide.errors import DataError
from confide.evaluation.sparsity import clip_fraction, l0, norm_histogram, sparsity, sparsity_by_layer


def test_entries_up_to_the_threshold_count_as_zero() -> None:
    gradient = torch.tensor([0.0, 1e-5, -1e-5, 1.1e-5, -2.0], dtype=torch.float64)
    assert l0(gradient) == 2
    assert l0(gradient, threshold=0.0) == 4
    assert sparsity({"a": gradient}) == pytest.approx(3 / 5)


def test_layers_weigh_by_their_size() -> None:
    gradients = {"large": torch.zeros(90), "small": torch.ones(2, 5)}
    assert sparsity(gradients) == pytest.approx(0.9)
    assert sparsity_by_layer(gradients) == {"large": 1.0, "small": 0.0}
    assert math.isnan(sparsity({}))


def test_what_diverged_is_not_called_sparse() -> None:
    assert l0(torch.tensor([float("nan"), float("inf"), 0.0])) == 2


def test_clip_fraction() -> None:
    assert clip_fraction(torch.tensor([0.5, 1.0, 1.5, 2.0]), 1.0) == 0.5
    assert math.isnan(clip_fraction(torch.zeros(0), 1.0))


def test_histogram_equals_numpy_and_keeps_what_lies_outside() -> None:
    norms = torch.rand(500, dtype=torch.float64) * 50 + 0.002
    found = norm_histogram(norms, 12)
    expected, edges = np.histogram(norms.numpy(), bins=np.logspace(-3, 3, 13))
    assert found.counts.tolist() == expected.tolist()
    assert found.edges == pytest.approx(edges)
    ends = norm_histogram(torch.tensor([0.0, 1e9, float("inf"), float("nan")]), 4)
    assert ends.counts.tolist() == [1, 0, 0, 3]
    with pytest.raises(DataError, match="0 bins"):
        norm_histogram(norms, 0)


def test_edges_tell_nothing_about_the_data() -> None:
    first, second = norm_histogram(torch.tensor([0.1])), norm_histogram(torch.tensor([99.0]))
    assert (first.edges == second.edges).all()
