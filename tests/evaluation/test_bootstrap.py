# SPDX-License-Identifier: Apache-2.0
"""Intervals: against one-by-one resampling, and their coverage for patients with several images."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sk

from confide.evaluation.bootstrap import Bootstrap, Metric, intervals
from confide.evaluation.metrics import METRICS, classification_metrics


def test_weights_equal_repeated_rows() -> None:
    """A replicate's weighted metrics are those of scikit-learn on the rows repeated that often."""
    generator = np.random.default_rng()
    labels = generator.integers(0, 3, 90)
    logits = generator.normal(size=(90, 3)) + np.eye(3)[labels]
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    units = np.repeat(np.arange(30), 3)
    bootstrap = Bootstrap(replicates=5, seed=int(generator.integers(1 << 30)))
    [weights] = bootstrap.weights(units)
    assert weights.shape == (5, 90)
    assert (weights.reshape(5, 30, 3) == weights.reshape(5, 30, 3)[:, :, :1]).all(), (
        "rows of a unit go together"
    )
    assert (weights.sum(axis=1) == 90).all()

    from confide.evaluation.metrics import Family

    found = Family(scores, labels, 3)(weights)
    for r in range(5):
        rows = np.repeat(np.arange(90), weights[r].astype(int))
        predicted = scores[rows].argmax(axis=1)
        expected = {
            "accuracy": sk.accuracy_score(labels[rows], predicted),
            "balanced_accuracy": sk.balanced_accuracy_score(labels[rows], predicted),
            "f1": sk.f1_score(labels[rows], predicted, average="macro"),
            "mcc": sk.matthews_corrcoef(labels[rows], predicted),
            "auc": sk.roc_auc_score(labels[rows], scores[rows], multi_class="ovr", labels=[0, 1, 2]),
            "brier": sk.brier_score_loss(labels[rows], scores[rows], labels=[0, 1, 2], scale_by_half=False),
        }
        for name, value in expected.items():
            assert found[name][r] == pytest.approx(value, abs=1e-12), name


def test_interval_covers_the_truth_when_images_of_a_patient_agree() -> None:
    """40 patients with 5 equal images each: resampling patients covers, resampling images does not.

    200 data sets, nominal coverage 95% (percentile, n=40: about 93%). Below 170 of 200 has probability < 2e-5
    at 93%. Resampling images gives about 61%; above 160 of 200 has probability < 1e-8.
    """
    generator = np.random.default_rng()
    units = np.repeat(np.arange(40), 5)
    hits = {"patients": 0, "images": 0}
    for trial in range(200):
        right = np.repeat(generator.random(40) < 0.7, 5).astype(float)

        def accuracy(weights: np.ndarray, right: np.ndarray = right) -> dict[str, np.ndarray]:
            return {"accuracy": weights @ right / weights.sum(axis=1)}

        for name, index in (("patients", units), ("images", np.arange(200))):
            metric = intervals(accuracy, index, Bootstrap(400, seed=trial))["accuracy"]
            hits[name] += metric.low <= 0.7 <= metric.high
    assert hits["patients"] >= 170
    assert hits["images"] <= 160


def test_every_interval_holds_its_value() -> None:
    """Also those of the calibration errors, which resampling alone would push above the value."""
    generator = np.random.default_rng()
    for _ in range(20):
        labels = generator.integers(0, 2, 150)
        chance = generator.uniform(0.05, 0.95, 150)
        scores = np.stack([1 - chance, chance], axis=1)
        for name, metric in classification_metrics(
            scores, labels, ("a", "b"), bootstrap=Bootstrap(200)
        ).items():
            assert metric.low <= metric.value <= metric.high, name


def test_same_seed_same_interval_and_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.arange(60) % 2
    scores = np.stack([np.linspace(0, 1, 60), 1 - np.linspace(0, 1, 60)], axis=1)
    first = classification_metrics(scores, labels, ("a", "b"), bootstrap=Bootstrap(100))
    monkeypatch.setattr("confide.evaluation.bootstrap._CELLS", 600)
    assert classification_metrics(scores, labels, ("a", "b"), bootstrap=Bootstrap(100)) == first
    assert set(first) == set(METRICS)


def test_nan_becomes_none_in_a_record() -> None:
    metric = Metric(float("nan"), note="nothing there")
    assert metric.to_dict() == {"value": None, "low": None, "high": None, "note": "nothing there"}
    assert str(metric) == "undefined (nothing there)"
    assert str(Metric(0.5, 0.25, 0.75)) == "0.500 (0.250 to 0.750)"
