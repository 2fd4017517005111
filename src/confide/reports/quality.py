# SPDX-License-Identifier: Apache-2.0
"""Sentences on how good a classifier is, beside its tables."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from confide.evaluation.calibration import bin_edges, weighted_error
from confide.reports.content import Content


def calibrated(content: Content) -> str:
    """What dividing the scores by the run's temperature, as `confide predict` does, makes of the ECE."""
    predictions, calibration = content.run.predictions, content.run.record.calibration
    before = content.results.metrics.get("ece")
    if calibration is None or predictions is None or before is None or not before.defined:
        return ""
    if predictions.probabilities is None or predictions.labels is None or content.results.matrix is None:
        return ""
    after = tempered_ece(predictions.probabilities, predictions.labels, calibration.temperature)
    return (
        f"confide predict divides the scores by a temperature of {calibration.temperature:.2f}, fitted on "
        f"the {calibration.fitted_on} images. On the test images that changes the calibration error (ECE) "
        f"from {before.value:.3f} to {after:.3f}. The figures of this page are those before it."
    )


def tempered_ece(probabilities: NDArray[np.float32], labels: NDArray[np.int64], temperature: float) -> float:
    """ECE of softmax(scores / T): the scores are the logarithms of the probabilities, up to a constant a row.

    Args:
        probabilities: (N, K).
        labels: (N,).
        temperature: T.
    """
    scores = np.log(probabilities.astype(np.float64).clip(1e-300)) / temperature
    odds = np.exp(scores - scores.max(axis=1, keepdims=True))
    tempered = odds / odds.sum(axis=1, keepdims=True)
    confidence, right = tempered.max(axis=1), (tempered.argmax(axis=1) == labels).astype(np.float64)
    return float(weighted_error(confidence, right, np.ones((1, len(labels))), bin_edges(confidence))[0])


def class_gap(content: Content) -> str:
    """The classes that are found best and worst."""
    known = [row for row in content.results.classes if row.sensitivity.defined]
    if len(known) < 2:
        return ""
    best = max(known, key=lambda row: row.sensitivity.value)
    worst = min(known, key=lambda row: row.sensitivity.value)
    gap = 100 * (best.sensitivity.value - worst.sensitivity.value)
    return (
        f"Between classes it can: {best.name} is found in {100 * best.sensitivity.value:.1f}% of its images, "
        f"{worst.name} in {100 * worst.sensitivity.value:.1f}%, a gap of {gap:.1f} points."
    )
