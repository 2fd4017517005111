# SPDX-License-Identifier: Apache-2.0
"""Membership attacks: plain re-computations, an overfitted model, patients as units."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score, roc_curve
from torch import nn

from confide.audit.membership import (
    Part,
    confident,
    likelihood_ratio,
    lira,
    loss_attack,
    measured,
    unit_scores,
)
from confide.errors import InputError
from confide.evaluation.bootstrap import Bootstrap
from confide.training.examples import Examples, as_examples
from confide.training.losses import cross_entropy


def test_rates_against_scikit_learn() -> None:
    generator = np.random.default_rng()
    members, others = generator.normal(0.7, 1, 900), generator.normal(0, 1, 1500)
    found = measured(members, others, attack="x", bootstrap=Bootstrap(200))
    truth, scores = np.r_[np.ones(900), np.zeros(1500)], np.r_[members, others]
    assert found.auc.value == pytest.approx(roc_auc_score(truth, scores))
    alarms, hits, _ = roc_curve(truth, scores, drop_intermediate=False)
    for rate, value in found.tpr.items():
        assert value.value == pytest.approx(hits[alarms <= rate].max())
        assert value.low <= value.value <= value.high
    # Φ(0.7/√2) = 0.69: the interval covers it but for 5%; a deviation of 0.1 has a probability below 1e-12.
    assert found.auc.value == pytest.approx(0.69, abs=0.1)


def test_a_score_is_the_mean_of_a_units_rows() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    images, labels = torch.randn(5, 1, 2, 2), torch.tensor([0, 1, 2, 0, 1])
    patients = [0, 1, 0, 1, 2]
    found = unit_scores(model, cross_entropy, as_examples((images, labels), patients), batch_size=2)
    each = [
        -nn.functional.cross_entropy(model(images[i : i + 1]), labels[i : i + 1]).item() for i in range(5)
    ]
    assert found.tolist() == pytest.approx(
        [(each[0] + each[2]) / 2, (each[1] + each[3]) / 2, each[4]], rel=1e-5
    )


def _fit(data: Examples, steps: int = 150) -> nn.Module:
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 64), nn.Tanh(), nn.Linear(64, 2))
    rows = data.rows_of(np.arange(data.n_units))[0]
    images, labels = data.batch(rows)
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return model


def _noise(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(count, 1, 4, 4), torch.randint(0, 2, (count,))


def test_an_overfitted_model_gives_its_members_away_and_an_untrained_one_does_not() -> None:
    members, others = as_examples(_noise(100)), as_examples(_noise(100))
    fresh = nn.Sequential(nn.Flatten(), nn.Linear(16, 64), nn.Tanh(), nn.Linear(64, 2))
    found = loss_attack(
        _fit(members), cross_entropy, members, others, untrained=fresh, bootstrap=Bootstrap(50)
    )
    assert found.auc.value > 0.7
    # 100 against 100: an AUC has a deviation of 0.041; outside of 0.3..0.7 with a probability below 1e-5.
    assert found.control is not None and 0.3 < found.control.value < 0.7
    words = found.in_words()
    assert "outside the guarantee" in words and "no bound on ε" in words and "0.5 is guessing" in words
    assert "no false-alarm rate between zero and 1%" in words
    assert found.to_dict()["private"] is False


def test_lira_recognises_members() -> None:
    pool = as_examples(_noise(120))
    member = np.random.default_rng().random(120) < 0.5
    target = _fit(Part(pool, np.flatnonzero(member)))
    found = lira(target, cross_entropy, pool, member, _fit, shadows=6, bootstrap=Bootstrap(50))
    assert found.auc.value > 0.7 and found.members == int(member.sum())
    assert "LiRA, 6 shadow models" in found.attack
    with pytest.raises(InputError, match="shadow models"):
        lira(target, cross_entropy, pool, member, _fit, shadows=3)


def test_shadows_see_half_of_the_units_and_each_unit_is_in_half_of_them() -> None:
    pool, seen = as_examples(_noise(30)), []

    def train(part: Examples) -> nn.Module:
        assert isinstance(part, Part)
        seen.append(part.chosen)
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 2))

    lira(
        nn.Sequential(nn.Flatten(), nn.Linear(16, 2)),
        cross_entropy,
        pool,
        np.arange(30) < 15,
        train,
        shadows=4,
    )
    assert np.bincount(np.concatenate(seen)).tolist() == [2] * 30


def test_likelihood_ratio_by_hand() -> None:
    shadows = np.array([[1.0, 5.0], [3.0, 1.0], [0.0, 4.0], [2.0, 0.0]])
    inside = np.array([[True, True], [True, False], [False, True], [False, False]])
    target = np.array([2.0, 1.0])
    # Means with: 2, 4.5; without: 1, 0.5; pooled variance with: (2 + 0.5)/2; without: (2 + 0.5)/2.
    variance = 1.25
    wanted = [
        (-((target[u] - w) ** 2) + (target[u] - o) ** 2) / (2 * variance)
        for u, w, o in ((0, 2.0, 1.0), (1, 4.5, 0.5))
    ]
    assert likelihood_ratio(target, shadows, inside).tolist() == pytest.approx(wanted)


def test_confidence_is_the_logit() -> None:
    for p in (0.01, 0.5, 0.99):
        assert float(confident(np.array([math.log(p)]))[0]) == pytest.approx(math.log(p / (1 - p)))
    assert np.isfinite(confident(np.array([0.0, -1e30]))).all()


def test_nothing_to_compare() -> None:
    with pytest.raises(InputError, match="cannot be compared"):
        measured(np.array([1.0]), np.array([]), attack="x")
    with pytest.raises(InputError, match="NaN"):
        measured(np.array([float("nan")]), np.array([0.0]), attack="x")


def test_a_diverged_row_gets_the_lowest_score() -> None:
    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.flatten(1)[:, :2] * float("nan")

    scores = unit_scores(Broken(), cross_entropy, as_examples(_noise(3)))
    assert (scores <= -1e29).all()
