# SPDX-License-Identifier: Apache-2.0
"""Does a stated probability of 80% come true in 80% of the cases?

Calibration errors compare, in bins of the top class's probability, the mean confidence with the accuracy:
Σ_b (n_b / N)·|acc_b - conf_b| (Naeini et al. 2015; Guo et al. 2017, arXiv:1706.04599). `equal-width` bins
give the usual ECE; `equal-mass` bins give the adaptive one (Nguyen & O'Connor 2015), which a crowd near 1
does not hide in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from confide.errors import DataError

BINS = 15
Binning = Literal["equal-width", "equal-mass"]


@dataclass(frozen=True)
class Reliability:
    """A reliability diagram: one entry a non-empty bin.

    Attributes:
        confidence: (b,) mean stated probability.
        accuracy: (b,) share that was right.
        count: (b,) rows.
        edges: (bins + 1,) the bins.
    """

    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    count: NDArray[np.int64]
    edges: NDArray[np.float64]


def bin_edges(
    confidence: NDArray[np.float64], bins: int = BINS, binning: Binning = "equal-width"
) -> NDArray[np.float64]:
    """Edges of the bins over (0, 1]; equal-mass ones are quantiles, ties merged, so there may be fewer."""
    if binning == "equal-width":
        return np.linspace(0.0, 1.0, bins + 1)
    if not confidence.size:
        return np.array([0.0, 1.0])
    inner = np.quantile(confidence, np.linspace(0, 1, bins + 1)[1:-1])
    return np.unique(np.concatenate([[0.0], inner, [1.0]]))


def bin_of(confidence: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.int64]:
    """(N,) bin of every row; a bin holds its upper edge, as in the usual definition."""
    return np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, len(edges) - 2)


def weighted_error(
    confidence: NDArray[np.float64],
    correct: NDArray[np.float64],
    weights: NDArray[np.float64],
    edges: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Calibration error under each replicate's row weights.

    Args:
        confidence: (N,) probability of the predicted class.
        correct: (N,) 1 where the prediction is right.
        weights: (R, N) row weights.
        edges: Bins, the same for every replicate.

    Returns:
        (R,) errors; NaN for a replicate without weight.
    """
    member = np.zeros((len(confidence), len(edges) - 1))
    if len(confidence):
        member[np.arange(len(confidence)), bin_of(confidence, edges)] = 1.0
    gap = weights @ (member * (correct - confidence)[:, None])
    total = weights.sum(axis=1)
    return np.divide(np.abs(gap).sum(axis=1), total, out=np.full(len(weights), np.nan), where=total > 0)


def reliability(
    probabilities: NDArray[np.float32],
    labels: NDArray[np.int64],
    *,
    bins: int = 10,
    binning: Binning = "equal-width",
) -> Reliability:
    """The reliability diagram of the predicted class.

    Args:
        probabilities: (N, K), rows sum to one.
        labels: (N,).
        bins: Number of bins.
        binning: How the bins are laid.
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    correct = (probabilities.argmax(axis=1) == labels).astype(np.float64)
    edges = bin_edges(confidence, bins, binning)
    place = bin_of(confidence, edges)
    count = np.bincount(place, minlength=len(edges) - 1)
    full = count > 0
    mean = np.bincount(place, confidence, len(edges) - 1)[full] / count[full]
    right = np.bincount(place, correct, len(edges) - 1)[full] / count[full]
    return Reliability(mean, right, count[full].astype(np.int64), edges)


def fit_temperature(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """The temperature T that minimises the mean cross-entropy of softmax(logits / T). Guo et al. (2017).

    It is a statistic of the rows it is fitted on, without noise: fit it on data that is not to be protected.

    Args:
        logits: (N, K).
        labels: (N,).

    Raises:
        DataError: If there are no rows.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    if not len(labels):
        raise DataError("no rows to fit a temperature on", remedy="Give the validation split.")
    rows = np.arange(len(labels))
    scores = logits.astype(np.float64)

    def cross_entropy(log_temperature: float) -> float:
        return float(-log_softmax(scores / np.exp(log_temperature), axis=1)[rows, labels].mean())

    # exp(±4): from 0.02 to 55, far beyond what networks need; the bound also ends separable cases.
    found = minimize_scalar(cross_entropy, bounds=(-4.0, 4.0), method="bounded")
    return float(np.exp(found.x))
