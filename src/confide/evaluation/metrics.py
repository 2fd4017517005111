# SPDX-License-Identifier: Apache-2.0
"""Classification metrics with intervals over privacy units.

Every metric is a function of row weights, so that one pass serves the value (all weights one) and the
replicates of the bootstrap. scikit-learn and torchmetrics are the oracles in the tests.

| edge case | what happens |
|---|---|
| a class absent from the labels | left out of balanced accuracy and AUC; a note says so |
| only one class in the labels | AUC and sensitivity are NaN with a note; MCC is 0, as in scikit-learn |
| tied scores | count one half in AUC; a threshold takes all or none of them |
| no rows | all NaN with a note |
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from confide.errors import DataError
from confide.evaluation import calibration, ranking
from confide.evaluation.bootstrap import Bootstrap, Metric, Weights, intervals

# The order in which tables show them; True: higher is better.
METRICS: dict[str, tuple[str, bool]] = {
    "accuracy": ("accuracy", True),
    "balanced_accuracy": ("balanced accuracy", True),
    "auc": ("AUC, one-vs-rest", True),
    "f1": ("F1, macro", True),
    "mcc": ("Matthews correlation", True),
    "sensitivity_at_specificity_95": ("sensitivity at 95% specificity", True),
    "brier": ("Brier score", False),
    "ece": ("calibration error (ECE)", False),
    "adaptive_ece": ("adaptive calibration error", False),
}
SPECIFICITY = 0.95
_BIASED = frozenset({"ece", "adaptive_ece"})

Probabilities = NDArray[np.float32] | NDArray[np.float64]


def classification_metrics(
    probabilities: Probabilities,
    labels: NDArray[np.int64],
    classes: Sequence[str],
    unit_index: NDArray[np.int64] | None = None,
    bootstrap: Bootstrap | None = None,
) -> dict[str, Metric]:
    """All metrics of a classifier.

    With two classes AUC and sensitivity are those of the second class; with more they are means over the
    classes present, each against the rest.

    Args:
        probabilities: (N, K), rows sum to one.
        labels: (N,) integers 0..K-1.
        classes: The K class names.
        unit_index: (N,) privacy unit of every row; None: each row is its own unit.
        bootstrap: How intervals are made; None leaves them out (cheap, for curves during training).

    Returns:
        name -> Metric, in the order of `METRICS`.

    Raises:
        DataError: If shapes, labels or probabilities are impossible.
    """
    scores, labels, units = _checked(probabilities, labels, classes, unit_index)
    family = Family(scores, labels, len(classes))
    return intervals(family, units, bootstrap, notes=_notes(labels, classes), biased=_BIASED)


def confusion_matrix(
    probabilities: Probabilities, labels: NDArray[np.int64], classes: int
) -> NDArray[np.int64]:
    """(K, K) counts: rows are the true class, columns the predicted one; a tie goes to the lower class."""
    cell = np.asarray(labels, dtype=np.int64) * classes + probabilities.argmax(axis=1)
    return np.bincount(cell, minlength=classes * classes).reshape(classes, classes)


class Family:
    """The metrics of one set of predictions as functions of row weights."""

    def __init__(self, scores: NDArray[np.float64], labels: NDArray[np.int64], classes: int) -> None:
        self.classes = classes
        self.scores = scores
        self.truth = np.eye(classes)[labels]
        self.predicted = np.eye(classes)[scores.argmax(axis=1)]
        self.confidence = scores.max(axis=1) if len(scores) else np.empty(0)
        self.correct = (self.truth * self.predicted).sum(axis=1)
        self.squared = ((scores - self.truth) ** 2).sum(axis=1)
        self.edges = tuple(
            calibration.bin_edges(self.confidence, binning=kind) for kind in ("equal-width", "equal-mass")
        )
        # With two classes both one-vs-rest problems are the same one; ask it of the second class.
        wanted = [1] if classes == 2 else range(classes)
        self.rankings = [ranking.Ranking(scores[:, k], self.truth[:, k]) for k in wanted]

    def __call__(self, weights: Weights) -> dict[str, NDArray[np.float64]]:
        total = weights.sum(axis=1)
        matrix = np.einsum("rn,nt,np->rtp", weights, self.truth, self.predicted, optimize=True)
        auc, sensitivity = zip(*(r.measure(weights, SPECIFICITY) for r in self.rankings), strict=True)
        width, mass = (
            calibration.weighted_error(self.confidence, self.correct, weights, e) for e in self.edges
        )
        return {
            "accuracy": _ratio(weights @ self.correct, total),
            "balanced_accuracy": balanced_accuracy(matrix),
            "auc": _mean(np.stack(auc, axis=1)),
            "f1": f1(matrix),
            "mcc": mcc(matrix),
            "sensitivity_at_specificity_95": _mean(np.stack(sensitivity, axis=1)),
            "brier": _ratio(weights @ self.squared, total),
            "ece": width,
            "adaptive_ece": mass,
        }


def balanced_accuracy(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean recall over the classes present: (R, K, K) weighted confusion matrices -> (R,)."""
    return _mean(_ratio(np.einsum("rkk->rk", matrix), matrix.sum(axis=2)))


def f1(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Macro F1 over the classes that are present or predicted: (R, K, K) -> (R,)."""
    hits = np.einsum("rkk->rk", matrix)
    return _mean(_ratio(2 * hits, matrix.sum(axis=1) + matrix.sum(axis=2)))


def mcc(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Matthews correlation of K classes: (R, K, K) -> (R,); 0 where one side is constant. Gorodkin (2004)."""
    total = matrix.sum(axis=(1, 2))
    true, predicted = matrix.sum(axis=2), matrix.sum(axis=1)
    covariance = np.einsum("rkk->r", matrix) * total - (true * predicted).sum(axis=1)
    spread = (total**2 - (true**2).sum(axis=1)) * (total**2 - (predicted**2).sum(axis=1))
    value = np.divide(covariance, np.sqrt(spread), out=np.zeros(len(matrix)), where=spread > 0)
    return np.where(total > 0, value, np.nan)


def _ratio(top: NDArray[np.float64], bottom: NDArray[np.float64]) -> NDArray[np.float64]:
    """top / bottom, NaN where bottom is zero."""
    return np.divide(top, bottom, out=np.full(np.shape(top), np.nan), where=bottom > 0)


def _mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over the last axis of what is not NaN; NaN where nothing is left."""
    there = ~np.isnan(values)
    return _ratio(np.where(there, values, 0.0).sum(axis=-1), there.sum(axis=-1).astype(np.float64))


def _notes(labels: NDArray[np.int64], classes: Sequence[str]) -> dict[str, str]:
    present = np.unique(labels)
    if not len(labels):
        return dict.fromkeys(METRICS, "there are no rows")
    if len(present) == 1:
        text = f"every row is of class {classes[present[0]]!r}: there is nothing to rank it against"
        return {"auc": text, "sensitivity_at_specificity_95": text}
    return {}


def _checked(
    probabilities: Probabilities,
    labels: NDArray[np.int64],
    classes: Sequence[str],
    unit_index: NDArray[np.int64] | None,
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    scores = np.asarray(probabilities, dtype=np.float64)
    labels = np.asarray(labels)
    count = len(classes)
    if scores.ndim != 2 or scores.shape[1] != count or count < 2:
        raise DataError(
            f"probabilities have shape {scores.shape}, expected (N, {count}) with at least two classes"
        )
    if labels.shape != scores.shape[:1] or labels.dtype.kind not in "iu":
        raise DataError(
            f"labels are {labels.dtype} {labels.shape}, expected integers of shape ({len(scores)},)"
        )
    if labels.size and not 0 <= labels.min() <= labels.max() < count:
        raise DataError(f"labels lie outside 0..{count - 1}")
    if not np.isfinite(scores).all():
        rows = np.flatnonzero(~np.isfinite(scores).all(axis=1))
        raise DataError(
            f"{len(rows)} rows of the probabilities hold NaN or infinity, the first is row {rows[0]}",
            why="The model diverged, or its input held such values.",
        )
    if scores.size and (scores.min() < -1e-6 or np.abs(scores.sum(axis=1) - 1).max() > 1e-3):
        raise DataError(
            "rows of the probabilities do not sum to one", remedy="Pass softmax outputs, not logits."
        )
    units = np.arange(len(labels)) if unit_index is None else np.asarray(unit_index)
    if units.shape != labels.shape:
        raise DataError(f"unit_index has shape {units.shape}, expected {labels.shape}")
    return scores, labels.astype(np.int64), units.astype(np.int64)
