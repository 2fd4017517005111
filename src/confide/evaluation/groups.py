# SPDX-License-Identifier: Apache-2.0
"""Per-class and per-subgroup tables. DP hurts small groups most (Bagdasaryan et al. 2019), so gaps are
shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from confide.errors import DataError
from confide.evaluation.bootstrap import Bootstrap, Metric, Weights, intervals
from confide.evaluation.metrics import Family, Probabilities
from confide.evaluation.ranking import Ranking

# Fewer units than this: a figure would be noise, and could point at a person.
FEWEST_UNITS = 10
GROUP_METRICS = ("accuracy", "balanced_accuracy", "auc", "brier")
_HIGHER_IS_BETTER = {"accuracy": True, "balanced_accuracy": True, "auc": True, "brier": False}


@dataclass(frozen=True)
class ClassRow:
    """One class against the rest. `rows` 0: the class is absent, and everything about it is undefined."""

    name: str
    rows: int
    sensitivity: Metric
    specificity: Metric
    precision: Metric
    f1: Metric
    auc: Metric


@dataclass(frozen=True)
class GroupRow:
    """One subgroup; `metrics` is empty when it has fewer than `FEWEST_UNITS` units."""

    name: str
    rows: int
    units: int
    metrics: dict[str, Metric]

    @property
    def too_small(self) -> bool:
        """Whether its figures are withheld."""
        return not self.metrics


@dataclass(frozen=True)
class Gap:
    """How much better the best-served subgroup fares than the worst-served one."""

    metric: str
    best: str
    worst: str
    difference: Metric


@dataclass(frozen=True)
class SubgroupTable:
    """All groups of one column, and the gaps between those that are large enough."""

    column: str
    groups: tuple[GroupRow, ...]
    gaps: tuple[Gap, ...]


def class_table(
    probabilities: Probabilities,
    labels: NDArray[np.int64],
    classes: Sequence[str],
    unit_index: NDArray[np.int64] | None = None,
    bootstrap: Bootstrap | None = None,
) -> tuple[ClassRow, ...]:
    """Sensitivity, specificity, precision, F1 and AUC of each class.

    Args:
        probabilities: (N, K).
        labels: (N,).
        classes: The K names.
        unit_index: (N,) privacy unit of every row; None: each row is its own.
        bootstrap: How intervals are made.
    """
    scores = np.asarray(probabilities, dtype=np.float64)
    units = np.arange(len(labels)) if unit_index is None else unit_index
    predicted = scores.argmax(axis=1)
    rows: list[ClassRow] = []
    for k, name in enumerate(classes):
        measure = _OneClass(scores[:, k], labels == k, predicted == k)
        missing = "" if (labels == k).any() else f"no test image is of class {name!r}"
        notes: dict[str, str] = dict.fromkeys(("sensitivity", "f1", "auc", "precision"), missing)
        if not missing:
            notes = {"precision": f"class {name!r} was never predicted"}
        found = intervals(measure, units, bootstrap, notes=notes)
        if missing:
            found |= {key: Metric(float("nan"), note=missing) for key in notes}
        rows.append(ClassRow(name=name, rows=int((labels == k).sum()), **found))
    return tuple(rows)


class _OneClass:
    """The metrics of one class as functions of row weights."""

    def __init__(
        self, score: NDArray[np.float64], truth: NDArray[np.bool_], predicted: NDArray[np.bool_]
    ) -> None:
        self.ranking = Ranking(score, truth.astype(np.float64))
        self.cells = np.stack([truth & predicted, truth, predicted, ~truth & ~predicted, ~truth], axis=1)

    def __call__(self, weights: Weights) -> dict[str, NDArray[np.float64]]:
        hit, true, said, rejected, negative = (weights @ self.cells.astype(np.float64)).T
        auc, _ = self.ranking.measure(weights, 0.95)
        return {
            "sensitivity": _ratio(hit, true),
            "specificity": _ratio(rejected, negative),
            "precision": _ratio(hit, said),
            "f1": _ratio(2 * hit, true + said),
            "auc": auc,
        }


def subgroup_table(
    column: str,
    groups: NDArray[np.str_],
    probabilities: Probabilities,
    labels: NDArray[np.int64],
    classes: Sequence[str],
    unit_index: NDArray[np.int64] | None = None,
    bootstrap: Bootstrap | None = None,
) -> SubgroupTable:
    """Metrics of every group of a column, and the gap between the best- and the worst-served one.

    The interval of a gap is that of the difference between those two groups, resampled together.

    Args:
        column: What the groups are, for example "sex".
        groups: (N,) group of every row; "" is shown as "not recorded".
        probabilities: (N, K).
        labels: (N,).
        classes: The K names.
        unit_index: (N,) privacy unit of every row.
        bootstrap: How intervals are made.

    Raises:
        DataError: If `groups` does not fit.
    """
    if groups.shape != labels.shape:
        raise DataError(f"column {column!r} has shape {groups.shape}, expected {labels.shape}")
    units = np.arange(len(labels)) if unit_index is None else unit_index
    family = Family(np.asarray(probabilities, dtype=np.float64), labels, len(classes))
    names = sorted({str(name) for name in groups})
    rows: list[GroupRow] = []
    for name in names:
        member = groups == name
        count = len(np.unique(units[member]))
        found: dict[str, Metric] = {}
        if count >= FEWEST_UNITS:
            every = intervals(_Within(family, member), units, bootstrap)
            found = {key: every[key] for key in GROUP_METRICS}
        rows.append(GroupRow(name or "not recorded", int(member.sum()), count, found))
    large = [(row, groups == name) for row, name in zip(rows, names, strict=True) if not row.too_small]
    gaps = [gap for key in GROUP_METRICS if (gap := _gap(key, large, family, units, bootstrap)) is not None]
    return SubgroupTable(column, tuple(rows), tuple(gaps))


class _Within:
    """A family of metrics on some of the rows."""

    def __init__(self, family: Family, member: NDArray[np.bool_]) -> None:
        self.family = family
        self.member = member

    def __call__(self, weights: Weights) -> dict[str, NDArray[np.float64]]:
        found = self.family(weights * self.member)
        return {name: found[name] for name in GROUP_METRICS}


def _gap(
    name: str,
    rows: list[tuple[GroupRow, NDArray[np.bool_]]],
    family: Family,
    units: NDArray[np.int64],
    bootstrap: Bootstrap | None,
) -> Gap | None:
    known = [(row, member) for row, member in rows if row.metrics[name].defined]
    if len(known) < 2:
        return None
    known.sort(key=lambda pair: pair[0].metrics[name].value, reverse=_HIGHER_IS_BETTER[name])
    (best, best_rows), (worst, worst_rows) = known[0], known[-1]
    sign = 1.0 if _HIGHER_IS_BETTER[name] else -1.0

    def difference(weights: Weights) -> dict[str, NDArray[np.float64]]:
        return {name: sign * (family(weights * best_rows)[name] - family(weights * worst_rows)[name])}

    return Gap(name, best.name, worst.name, intervals(difference, units, bootstrap)[name])


def _ratio(top: NDArray[np.float64], bottom: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(top, bottom, out=np.full(np.shape(top), np.nan), where=bottom > 0)
