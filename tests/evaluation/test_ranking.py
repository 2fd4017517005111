# SPDX-License-Identifier: Apache-2.0
"""AUC and sensitivity under row weights, against counting every pair and trying every threshold."""

from __future__ import annotations

import numpy as np
import pytest

from confide.evaluation.ranking import Ranking


@pytest.mark.parametrize("decimals", [1, 6])
def test_auc_by_counting_pairs(decimals: int) -> None:
    """One decimal gives many ties. Exact up to rounding, for any weights."""
    generator = np.random.default_rng()
    scores = np.round(generator.random(60), decimals)
    truth = (generator.random(60) < 0.4).astype(float)
    truth[:2] = 0, 1
    weights = generator.integers(0, 4, (7, 60)).astype(float)
    weights[:, :2] = 1
    auc, _ = Ranking(scores, truth).measure(weights, 0.9)
    for found, w in zip(auc, weights, strict=True):
        won = total = 0.0
        for i in np.flatnonzero(truth == 1):
            for j in np.flatnonzero(truth == 0):
                won += w[i] * w[j] * (1.0 if scores[i] > scores[j] else 0.5 * (scores[i] == scores[j]))
                total += w[i] * w[j]
        assert found == pytest.approx(won / total, abs=1e-12)


def test_sensitivity_by_trying_every_threshold() -> None:
    generator = np.random.default_rng()
    scores = np.round(generator.random(80), 2)
    truth = (generator.random(80) < 0.5).astype(float)
    truth[:2] = 0, 1
    weights = generator.integers(1, 4, (5, 80)).astype(float)
    _, sensitivity = Ranking(scores, truth).measure(weights, 0.75)
    for found, w in zip(sensitivity, weights, strict=True):
        best = 0.0
        for threshold in {*scores, 2.0}:
            said = scores >= threshold
            # 4·false alarms <= negatives: specificity 3/4 in whole numbers.
            if 4 * (w * said * (1 - truth)).sum() <= (w * (1 - truth)).sum():
                best = max(best, (w * said * truth).sum() / (w * truth).sum())
        assert found == pytest.approx(best, abs=1e-12)


def test_undefined_without_both_sides() -> None:
    ranking = Ranking(np.array([0.1, 0.9, 0.5]), np.array([0.0, 1.0, 1.0]))
    auc, sensitivity = ranking.measure(np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0], [1.0, 1.0, 0.0]]), 0.95)
    assert np.isnan(auc).tolist() == np.isnan(sensitivity).tolist() == [True, True, False]
    assert auc[2] == sensitivity[2] == 1.0
