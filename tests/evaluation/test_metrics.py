# SPDX-License-Identifier: Apache-2.0
"""Every metric against scikit-learn or torchmetrics, on random predictions and on edge cases.

Comparisons are exact up to rounding, so a fresh seed can fail only if the two definitions differ.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn import metrics as sk
from torchmetrics.functional.classification import multiclass_calibration_error

from confide.errors import DataError
from confide.evaluation.bootstrap import Bootstrap
from confide.evaluation.metrics import METRICS, classification_metrics, confusion_matrix


def draw(rows: int, classes: int, *, ties: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Random probabilities that know something about random labels; with ties: few distinct values."""
    generator = np.random.default_rng()
    labels = generator.integers(0, classes, rows)
    logits = generator.normal(size=(rows, classes)) * 1.5 + 1.2 * np.eye(classes)[labels]
    if ties:
        logits = np.round(logits)
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return scores, labels


def names(classes: int) -> tuple[str, ...]:
    return tuple(f"class {k}" for k in range(classes))


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("classes", [2, 3, 8])
def test_equals_scikit_learn(classes: int, ties: bool) -> None:
    scores, labels = draw(300, classes, ties=ties)
    found = classification_metrics(scores, labels, names(classes))
    predicted = scores.argmax(axis=1)
    every = list(range(classes))
    expected = {
        "accuracy": sk.accuracy_score(labels, predicted),
        "balanced_accuracy": sk.balanced_accuracy_score(labels, predicted),
        "f1": sk.f1_score(labels, predicted, average="macro"),
        "mcc": sk.matthews_corrcoef(labels, predicted),
        "auc": sk.roc_auc_score(labels, scores[:, 1])
        if classes == 2
        else sk.roc_auc_score(labels, scores, multi_class="ovr", labels=every),
        "brier": sk.brier_score_loss(labels, scores, labels=every, scale_by_half=False),
    }
    for name, value in expected.items():
        assert found[name].value == pytest.approx(value, abs=1e-12), name
    assert (
        confusion_matrix(scores, labels, classes) == sk.confusion_matrix(labels, predicted, labels=every)
    ).all()


@pytest.mark.parametrize("classes", [2, 5])
def test_equals_torchmetrics(classes: int) -> None:
    scores, labels = draw(400, classes)
    found = classification_metrics(scores, labels, names(classes))
    expected = multiclass_calibration_error(
        torch.tensor(scores), torch.tensor(labels), num_classes=classes, n_bins=15, norm="l1"
    )
    # torchmetrics sums the bins in float32.
    assert found["ece"].value == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.parametrize("ties", [False, True])
def test_sensitivity_by_trying_every_threshold(ties: bool) -> None:
    """In integers: 20 times the false positives are at most the negatives. (torchmetrics compares in
    float32.)"""
    scores, labels = draw(200, 3, ties=ties)
    best = []
    for k in range(3):
        positive, negative = scores[labels == k, k], scores[labels != k, k]
        kept = [t for t in {*scores[:, k], 2.0} if 20 * (negative >= t).sum() <= len(negative)]
        best.append(max((positive >= t).mean() for t in kept))
    found = classification_metrics(scores, labels, names(3))["sensitivity_at_specificity_95"]
    assert found.value == pytest.approx(np.mean(best), abs=1e-12)


def test_adaptive_calibration_error_by_hand() -> None:
    # Four rows a bin with 15 bins on 60 distinct confidences: sort, cut, compare.
    generator = np.random.default_rng()
    confidence = np.sort(generator.uniform(0.5, 1.0, 60))
    right = generator.random(60) < confidence
    scores = np.stack([1 - confidence, confidence], axis=1)
    labels = right.astype(np.int64)
    edges = np.quantile(confidence, np.arange(1, 15) / 15)
    bins = [[i for i in range(60) if sum(c < confidence[i] for c in edges) == b] for b in range(15)]
    expected = sum(abs(right[b].sum() - confidence[b].sum()) for b in bins if b) / 60
    assert classification_metrics(scores, labels, names(2))["adaptive_ece"].value == pytest.approx(expected)


def test_one_class_only() -> None:
    scores, _ = draw(50, 3)
    labels = np.full(50, 2)
    found = classification_metrics(scores, labels, names(3), bootstrap=Bootstrap(50))
    assert math.isnan(found["auc"].value)
    assert "class 2" in found["auc"].note
    assert found["mcc"].value == 0.0
    assert found["balanced_accuracy"].value == found["accuracy"].value


def test_a_class_absent_from_the_labels_is_left_out() -> None:
    scores, labels = draw(200, 4)
    keep = labels != 3
    found = classification_metrics(scores[keep], labels[keep], names(4))
    each = [sk.roc_auc_score(labels[keep] == k, scores[keep][:, k]) for k in range(3)]
    assert found["auc"].value == pytest.approx(np.mean(each))
    recall = [(scores[labels == k].argmax(axis=1) == k).mean() for k in range(3)]
    assert found["balanced_accuracy"].value == pytest.approx(np.mean(recall))


def test_all_tied_scores_rank_at_chance() -> None:
    labels = np.array([0, 1, 1, 0, 1])
    found = classification_metrics(np.full((5, 2), 0.5), labels, names(2))
    assert found["auc"].value == 0.5
    assert found["sensitivity_at_specificity_95"].value == 0.0


def test_no_rows() -> None:
    found = classification_metrics(np.empty((0, 2)), np.empty(0, np.int64), names(2), bootstrap=Bootstrap(10))
    assert set(found) == set(METRICS)
    for metric in found.values():
        assert not metric.defined
        assert metric.note == "there are no rows"


def test_specificity_met_exactly_counts() -> None:
    # 20 negatives, one of them above the positives: specificity 19/20 is 0.95 and may be used.
    negatives = np.r_[0.9, np.linspace(0.1, 0.4, 19)]
    positives = np.array([0.8, 0.7])
    score = np.r_[negatives, positives]
    labels = np.r_[np.zeros(20, np.int64), np.ones(2, np.int64)]
    found = classification_metrics(np.stack([1 - score, score], axis=1), labels, names(2))
    assert found["sensitivity_at_specificity_95"].value == 1.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s, y: (s[:, :2], y), "expected"),
        (lambda s, y: (s, y[:-1]), "labels are"),
        (lambda s, y: (s, y.astype(float)), "labels are"),
        (lambda s, y: (s, y + 1), "outside"),
        (lambda s, y: (s * 2, y), "sum to one"),
        (lambda s, y: (np.where(s == s.max(), np.nan, s), y), "NaN"),
    ],
)
def test_impossible_input_is_refused(change, message: str) -> None:
    scores, labels = draw(40, 3)
    labels[0] = 2
    with pytest.raises(DataError, match=message):
        classification_metrics(*change(scores, labels), names(3))
