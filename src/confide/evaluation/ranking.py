# SPDX-License-Identifier: Apache-2.0
"""What depends on the order of the scores only: AUC, and sensitivity at a fixed specificity."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class Ranking:
    """One class against the rest, sorted once and then measured under any row weights.

    Args:
        scores: (N,) score of the class.
        truth: (N,) 1 for rows of the class, else 0.
    """

    def __init__(self, scores: NDArray[np.float64], truth: NDArray[np.float64]) -> None:
        self.order = np.argsort(-scores, kind="stable")
        ranked = scores[self.order]
        self.truth = truth[self.order]
        # Where a run of tied scores ends: only there can a threshold lie.
        self.ends = (
            np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
            if len(scores)
            else np.empty(0, np.int64)
        )

    def measure(
        self, weights: NDArray[np.float64], specificity: float
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """AUC and sensitivity under each replicate's row weights.

        The AUC is P(score of a positive > score of a negative) + ½·P(tie): the trapezoid area under the ROC
        curve. The sensitivity is the largest one over all thresholds that keep at least this specificity.

        Args:
            weights: (R, N).
            specificity: The specificity to keep.

        Returns:
            (R,) AUC and (R,) sensitivity; NaN where either side has no weight.
        """
        hits, alarms = self._curve(weights)
        positive, negative = hits[:, -1], alarms[:, -1]
        both = (positive > 0) & (negative > 0)
        area = (np.diff(alarms, axis=1) * (hits[:, 1:] + hits[:, :-1])).sum(axis=1) / 2
        nothing = np.full(len(weights), np.nan)
        auc = np.divide(area, positive * negative, out=nothing.copy(), where=both)
        # The tolerance keeps 0.95 reachable when 19 of 20 negatives are correct but 0.05 * 20 < 1 in floats.
        allowed = alarms <= ((1 - specificity) * negative * (1 + 1e-9))[:, None]
        best = np.where(allowed, hits, 0.0).max(axis=1)
        return auc, np.divide(best, positive, out=nothing, where=both)

    def _curve(self, weights: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """True and false positives at every threshold, from none to all: two (R, thresholds + 1) arrays."""
        ranked = weights[:, self.order]
        start = np.zeros((len(weights), 1))
        hits = np.cumsum(ranked * self.truth, axis=1)[:, self.ends]
        alarms = np.cumsum(ranked * (1 - self.truth), axis=1)[:, self.ends]
        return np.hstack([start, hits]), np.hstack([start, alarms])
