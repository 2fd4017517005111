# SPDX-License-Identifier: Apache-2.0
"""Calibration against scikit-learn, torchmetrics, plain loops, and a temperature that is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.calibration import calibration_curve
from torchmetrics.functional.classification import multiclass_calibration_error

from confide.errors import DataError
from confide.evaluation.calibration import (
    bin_edges,
    bin_of,
    fit_temperature,
    reliability,
    weighted_error,
)


def draw(rows: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng()
    labels = generator.integers(0, classes, rows)
    odds = np.exp(generator.normal(size=(rows, classes)) * 1.5 + np.eye(classes)[labels])
    return (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32), labels


@pytest.mark.parametrize("binning", ["equal-width", "equal-mass"])
def test_diagram_equals_scikit_learn(binning: str) -> None:
    """Both strategies on the predicted class; scikit-learn puts an exact edge into the upper bin, so draws
    on an edge are the only difference, and continuous ones have none except a quantile itself."""
    scores, labels = draw(400, 3)
    confidence, right = scores.max(axis=1).astype(np.float64), scores.argmax(axis=1) == labels
    found = reliability(scores, labels, bins=8, binning=binning)  # type: ignore[arg-type]
    if binning == "equal-width":
        share, stated = calibration_curve(right, confidence, n_bins=8, strategy="uniform")
        assert found.accuracy == pytest.approx(share)
        assert found.confidence == pytest.approx(stated)
    else:
        assert found.count.max() - found.count.min() <= 1, "every bin holds as many"
    assert found.count.sum() == 400
    assert (found.confidence * found.count).sum() == pytest.approx(confidence.sum())
    assert (found.accuracy * found.count).sum() == pytest.approx(right.sum())


def test_weighted_error_is_that_of_repeated_rows() -> None:
    scores, labels = draw(120, 4)
    weights = np.random.default_rng().integers(0, 4, (6, 120)).astype(float)
    confidence, right = scores.max(axis=1).astype(np.float64), (scores.argmax(axis=1) == labels) * 1.0
    found = weighted_error(confidence, right, weights, bin_edges(confidence))
    for value, w in zip(found, weights, strict=True):
        rows = np.repeat(np.arange(120), w.astype(int))
        expected = multiclass_calibration_error(
            torch.tensor(scores[rows]), torch.tensor(labels[rows]), num_classes=4, n_bins=15, norm="l1"
        )
        # torchmetrics bins and sums in float32.
        assert value == pytest.approx(float(expected), abs=1e-6)
    assert np.isnan(weighted_error(confidence, right, np.zeros((1, 120)), bin_edges(confidence)))


def test_an_edge_belongs_to_the_lower_bin() -> None:
    edges = bin_edges(np.empty(0), bins=4)
    assert bin_of(np.array([0.0, 0.25, 0.250001, 1.0]), edges).tolist() == [0, 0, 1, 3]


def test_ties_make_fewer_bins() -> None:
    confidence = np.array([0.5] * 92 + [0.9] * 8)
    edges = bin_edges(confidence, bins=10, binning="equal-mass")
    assert edges.tolist() == [0.0, 0.5, 1.0]
    assert bin_of(confidence, edges).tolist() == [0] * 92 + [1] * 8
    assert bin_edges(np.empty(0), binning="equal-mass").tolist() == [0.0, 1.0]


def test_a_perfect_and_a_hopeless_classifier() -> None:
    labels = np.array([0, 1, 1, 0])
    sure = np.eye(2, dtype=np.float32)[labels]
    confidence = sure.max(axis=1).astype(float)
    ones = np.ones((1, 4))
    assert weighted_error(confidence, np.ones(4), ones, bin_edges(confidence))[0] == 0.0
    assert weighted_error(confidence, np.zeros(4), ones, bin_edges(confidence))[0] == 1.0


def test_temperature_equals_a_grid_search() -> None:
    generator = np.random.default_rng()
    labels = generator.integers(0, 3, 500)
    logits = (3 * (generator.normal(size=(500, 3)) + np.eye(3)[labels])).astype(np.float32)
    found = fit_temperature(logits, labels)

    def cross_entropy(temperature: float) -> float:
        scores = torch.tensor(logits, dtype=torch.float64) / temperature
        return float(torch.nn.functional.cross_entropy(scores, torch.tensor(labels)))

    grid = np.exp(np.linspace(np.log(0.2), np.log(20), 2000))
    best = grid[np.argmin([cross_entropy(t) for t in grid])]
    assert found == pytest.approx(best, rel=5e-3)
    assert cross_entropy(found) <= cross_entropy(best) + 1e-9


def test_temperature_recovers_the_one_that_was_used() -> None:
    """Labels drawn from softmax(z), logits stated as 2.5·z. With 20,000 draws the standard error of the
    fitted temperature is about 1% (measured over 50 draws), so 6% is beyond six of them: below 1e-8."""
    generator = np.random.default_rng()
    z = generator.normal(size=(20_000, 3)) * 1.5
    chance = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    labels = (chance.cumsum(axis=1) < generator.random((20_000, 1))).sum(axis=1).clip(max=2)
    assert fit_temperature((2.5 * z).astype(np.float32), labels) == pytest.approx(2.5, rel=0.06)


def test_separable_rows_stay_within_bounds_and_no_rows_are_refused() -> None:
    labels = np.array([0, 1, 0, 1])
    temperature = fit_temperature((np.eye(2)[labels] * 5).astype(np.float32), labels)
    assert np.exp(-4.01) < temperature < 0.2
    with pytest.raises(DataError, match="no rows"):
        fit_temperature(np.empty((0, 2), np.float32), np.empty(0, np.int64))
