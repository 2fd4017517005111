# SPDX-License-Identifier: Apache-2.0
"""Membership attacks on a finished model: can it be told who was trained on?

**A diagnostic, not private.** It reads training and held-out data without noise, so its result is no part of
what a guarantee covers, and belongs into nothing that is shared unless somebody decides so. Nor is it a
bound on ε: who is in the training set was not decided by coins. Use `confide.audit.audit_run` for that.

| attack | needs | source |
|---|---|---|
| `loss_attack` | the model | Yeom et al. (2018), arXiv:1709.01604 |
| `lira` | also shadow models, trained alike on random halves | Carlini et al. (2022), arXiv:2112.03570 |

A score is a unit's: the mean over its rows, so a patient with many images counts once. What counts is the
true positive rate at a very low false-positive rate: an attack that is right about a few patients, and knows
it, is worse than one that is right a little more often than not about all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from confide.errors import InputError
from confide.evaluation.bootstrap import Bootstrap, Metric, intervals
from confide.evaluation.ranking import Ranking
from confide.training.examples import Examples
from confide.training.losses import Loss
from confide.training.scoring import evaluating

Scores = NDArray[np.float64]
# False-positive rates at which the true-positive rate is stated.
RATES = (0.001, 0.01)


@dataclass(frozen=True)
class Membership:
    """How well an attack tells members from others.

    Attributes:
        auc: 0.5 is guessing.
        tpr: False-positive rate -> true-positive rate, each with its interval over units.
        members: Units that were trained on.
        others: Units that were not.
        control: AUC of the same attack on an untrained model: what is above 0.5 here is no memory.
    """

    attack: str
    auc: Metric
    tpr: dict[float, Metric]
    members: int
    others: int
    unit: str = "image"
    control: Metric | None = None

    def in_words(self) -> str:
        """The result with its limits."""
        who, least = f"{self.unit}s", 1 / max(1, self.others)
        rates = "; ".join(
            f"{100 * value.value:.2f}% ({_span(value)}) at a false-alarm rate of {100 * rate:g}%"
            for rate, value in self.tpr.items()
        )
        text = (
            f"Membership attack ({self.attack}) on {self.members} trained and {self.others} held-out {who}: "
            f"AUC {self.auc}, where 0.5 is guessing. Trained {who} that are recognised: {rates}."
        )
        if least > min(self.tpr):
            text += (
                f" With {self.others} held-out {who}, no false-alarm rate between zero and {100 * least:.2g}%"
                " can be measured."
            )
        if self.control is not None:
            text += (
                f" The same attack on an untrained model has AUC {self.control}: so much comes from how the"
                " two sets differ, not from memory."
            )
        return (
            f"{text} This is a diagnostic outside the guarantee: it was computed from the training data"
            " without noise. It is no bound on ε."
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            "attack": self.attack,
            "private": False,
            "unit": self.unit,
            "members": self.members,
            "others": self.others,
            "auc": self.auc.to_dict(),
            "tpr_at_fpr": {f"{rate:g}": value.to_dict() for rate, value in self.tpr.items()},
            "control_auc": self.control.to_dict() if self.control else None,
        }


def _span(value: Metric) -> str:
    return f"{100 * value.low:.2f} to {100 * value.high:.2f}%" if value.low == value.low else "no interval"


def measured(
    members: Scores, others: Scores, *, attack: str, unit: str = "image", bootstrap: Bootstrap | None = None
) -> Membership:
    """AUC and true-positive rates of an attack's scores, a high score meaning "member".

    Args:
        members: (M,) one score a unit.
        others: (O,).
        bootstrap: How intervals are made; default: 1000 resamples of the units.

    Raises:
        InputError: If a side is empty, or a score is NaN.
    """
    scores = np.concatenate([members, others]).astype(np.float64)
    if not len(members) or not len(others) or np.isnan(scores).any():
        raise InputError(
            f"membership scores of {len(members)} members and {len(others)} others cannot be compared",
            why="A side is empty, or a score is NaN.",
        )
    truth = np.concatenate([np.ones(len(members)), np.zeros(len(others))])
    ranking = Ranking(scores, truth)

    def measure(weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        found = {rate: ranking.measure(weights, 1 - rate) for rate in RATES}
        return {"auc": found[RATES[0]][0]} | {f"{rate:g}": found[rate][1] for rate in RATES}

    every = intervals(measure, np.arange(len(scores)), bootstrap or Bootstrap())
    return Membership(
        attack,
        every["auc"],
        {rate: every[f"{rate:g}"] for rate in RATES},
        len(members),
        len(others),
        unit,
    )


def unit_scores(model: nn.Module, loss: Loss, examples: Examples, batch_size: int = 256) -> Scores:
    """(U,) minus the mean loss of each unit's rows, of a model in evaluation mode. Not finite: the lowest."""
    device = next(model.parameters()).device
    rows, owner = examples.rows_of(np.arange(examples.n_units))
    losses: list[NDArray[np.float64]] = []
    with evaluating(model):
        for start in range(0, len(rows), batch_size):
            batch = examples.batch(rows[start : start + batch_size])
            given = tuple(tensor.to(device) for tensor in batch)
            losses.append(loss(model, given).double().cpu().numpy())  # type: ignore[arg-type]
    total = np.zeros(examples.n_units)
    np.add.at(total, owner, np.nan_to_num(np.concatenate(losses), nan=1e30, posinf=1e30))
    return -total / np.bincount(owner, minlength=examples.n_units)


def loss_attack(
    model: nn.Module,
    loss: Loss,
    members: Examples,
    others: Examples,
    *,
    unit: str = "image",
    untrained: nn.Module | None = None,
    bootstrap: Bootstrap | None = None,
) -> Membership:
    """Guess that a unit was trained on if the model's loss on it is low.

    Args:
        untrained: A model of the same kind that saw none of the data, for the control.
    """
    found = measured(
        unit_scores(model, loss, members),
        unit_scores(model, loss, others),
        attack="loss threshold",
        unit=unit,
        bootstrap=bootstrap,
    )
    if untrained is None:
        return found
    control = measured(
        unit_scores(untrained, loss, members),
        unit_scores(untrained, loss, others),
        attack="control",
        bootstrap=bootstrap,
    )
    return Membership(**{**vars(found), "control": control.auc})


Train = Callable[[Examples], nn.Module]


@dataclass(frozen=True)
class Part:
    """Some units of other examples."""

    base: Examples
    chosen: NDArray[np.int64]

    @property
    def n_units(self) -> int:
        """How many were chosen."""
        return len(self.chosen)

    def rows_of(self, units: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The rows of these units, and for each row the position of its unit in `units`."""
        return self.base.rows_of(self.chosen[units])

    def batch(self, rows: NDArray[np.int64]) -> Any:
        """The rows of the whole."""
        return self.base.batch(rows)


def lira(
    target: nn.Module,
    loss: Loss,
    pool: Examples,
    member: NDArray[np.bool_],
    train: Train,
    *,
    shadows: int = 16,
    unit: str = "image",
    seed: int | None = None,
    bootstrap: Bootstrap | None = None,
) -> Membership:
    """Carlini et al.'s likelihood-ratio attack: how does a unit's score compare with and without it?

    Args:
        target: The model under attack.
        pool: Members and others together.
        member: (U,) which units of the pool the target was trained on.
        train: Trains a model as the target was, on the units that it is given.
        shadows: How many; each sees a random half of the pool. Each unit is in exactly half of them.

    Raises:
        InputError: If there are fewer than four shadows, or the pool does not fit.
    """
    if shadows < 4 or shadows % 2 or member.shape != (pool.n_units,):
        raise InputError(
            f"{shadows} shadow models and {len(member)} flags for {pool.n_units} units",
            remedy="Use an even number of at least 4 shadow models, and one flag a unit.",
        )
    generator = np.random.default_rng(seed)
    inside = np.argsort(generator.random((shadows, pool.n_units)), axis=0) < shadows // 2
    seen = np.stack([unit_scores(train(Part(pool, np.flatnonzero(row))), loss, pool) for row in inside])
    ratio = likelihood_ratio(confident(unit_scores(target, loss, pool)), confident(seen), inside)
    return measured(
        ratio[member], ratio[~member], attack=f"LiRA, {shadows} shadow models", unit=unit, bootstrap=bootstrap
    )


def confident(scores: Scores) -> Scores:
    """log(p/(1 − p)) of p = e^score: nearly Gaussian for cross-entropies, where the loss itself is not."""
    clipped = np.clip(scores, -50.0, -1e-12)
    return clipped - np.log(-np.expm1(clipped))


def likelihood_ratio(target: Scores, shadows: Scores, inside: NDArray[np.bool_]) -> Scores:
    """log-likelihood ratio (U,) of the target's score under Gaussians fitted to shadows with and without.

    Args:
        target: (U,).
        shadows: (S, U).
        inside: (S, U) whether the shadow was trained on the unit.

    The spread is pooled over all units: of a few shadows, a unit's own is too noisy (Carlini et al., section
    6).
    """
    means, spreads = [], []
    for mask in (inside, ~inside):
        count = mask.sum(0)
        mean = np.where(mask, shadows, 0.0).sum(0) / count
        spread = np.where(mask, (shadows - mean) ** 2, 0.0).sum() / (count - 1).sum()
        means.append(mean)
        spreads.append(max(float(spread), 1e-12))
    here, there = (
        -((target - mean) ** 2) / (2 * spread) - np.log(spread) / 2
        for mean, spread in zip(means, spreads, strict=True)
    )
    return here - there
