# SPDX-License-Identifier: Apache-2.0
"""What a report says, before it is a page: every figure, table and sentence of one run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from confide.evaluation.bootstrap import Bootstrap, Metric, intervals
from confide.evaluation.calibration import Reliability, reliability
from confide.evaluation.groups import ClassRow, SubgroupTable, class_table, subgroup_table
from confide.evaluation.metrics import METRICS, classification_metrics, confusion_matrix
from confide.evaluation.segmentation import SEGMENTATION_METRICS, summarise
from confide.experiments.predictions import Predictions
from confide.experiments.record import Run
from confide.reports.recognition import Recognition, recognition
from confide.reports.symmetry import Symmetry, symmetry_of
from confide.reports.words import Claim, Point, claim_of, not_covered, rests_on

BOOTSTRAP = Bootstrap(1000)


@dataclass(frozen=True)
class Results:
    """What the test set says about a classifier or a segmentation model."""

    metrics: dict[str, Metric]
    matrix: NDArray[np.int64] | None = None
    calibration: Reliability | None = None
    classes: tuple[ClassRow, ...] = ()
    subgroups: tuple[SubgroupTable, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """The private run beside its non-private twin: twin minus private, on the same test images where
    possible."""

    twin: Run
    twin_metrics: dict[str, Metric]
    differences: dict[str, Metric]
    paired: bool


@dataclass(frozen=True)
class Content:
    """One run, ready to be laid out."""

    run: Run
    claim: Claim | None
    recognition: Recognition | None
    rests_on: tuple[Point, ...]
    not_covered: tuple[Point, ...]
    results: Results
    majority: float | None
    majority_class: str | None
    comparison: Comparison | None
    notices: tuple[str, ...] = field(default=())
    symmetry: Symmetry | None = None


def content_of(run: Run, twin: Run | None = None, *, bootstrap: Bootstrap | None = BOOTSTRAP) -> Content:
    """Everything a report says about a run.

    Args:
        run: The run.
        twin: The same training without privacy, if there is one.
        bootstrap: How intervals are made.
    """
    claim = claim_of(run)
    results, notices = _results(run, bootstrap)
    majority, majority_class = _majority(run)
    steps = run.record.spent.steps if run.record.spent is not None else None
    return Content(
        run=run,
        claim=claim,
        recognition=None
        if claim is None or not claim.private
        else recognition(claim.guarantee, claim.epsilon, claim.delta, steps or claim.guarantee.steps),
        rests_on=() if claim is None else tuple(rests_on(run.record, claim)),
        not_covered=() if claim is None else tuple(not_covered(run, claim)),
        results=results,
        majority=majority,
        majority_class=majority_class,
        comparison=None if twin is None else _compare(run, results, twin, bootstrap),
        notices=(*_state(run), *run.problems, *run.record.warnings, *notices),
        symmetry=symmetry_of(run),
    )


def _state(run: Run) -> list[str]:
    """What the state of the run means for the reader."""
    last = run.history.last_step
    match run.record.status:
        case "running":
            return [
                (
                    "This run was killed or is still running: it left no final record. "
                    f"Its last line is step {last:,}. Steps after that line may have been released, so the "
                    "loss of privacy is stated for the whole plan; the ledger holds the exact charge."
                )
            ]
        case "interrupted":
            return [f"This run was interrupted at step {last:,} and can be resumed; all below is up to then."]
        case "exhausted":
            return [
                f"This run ended at step {last:,} because the privacy budget of the data set was used up."
            ]
        case "failed":
            return [f"This run failed at step {last:,}; everything below is up to then."]
        case _:
            return []


def _results(run: Run, bootstrap: Bootstrap | None) -> tuple[Results, list[str]]:
    data, predictions = run.record.data, run.predictions
    recorded = {
        name: Metric(*(np.nan if x is None else x for x in (m.value, m.low, m.high)), note=m.note)
        for name, m in run.record.metrics.get("test", {}).items()
    }
    if predictions is None:
        return Results(recorded), []
    if predictions.probabilities is None or predictions.labels is None:
        return Results(summarise(predictions.scores, predictions.unit_index, bootstrap)), []
    classes = data.classes
    if predictions.probabilities.shape[1] != len(classes):
        found = predictions.probabilities.shape[1]
        return Results(recorded), [
            (
                f"predictions.npz has {found} classes, run.json names {len(classes)}: they are not of the "
                "same run, so predictions.npz is left out."
            )
        ]
    results = _classification(predictions, predictions.probabilities, predictions.labels, classes, bootstrap)
    return results, _disagreement(recorded, results.metrics) + _absent(predictions.labels, classes)


def _classification(
    predictions: Predictions,
    probabilities: NDArray[np.float32],
    labels: NDArray[np.int64],
    classes: Sequence[str],
    bootstrap: Bootstrap | None,
) -> Results:
    units = predictions.unit_index
    return Results(
        metrics=classification_metrics(probabilities, labels, classes, units, bootstrap),
        matrix=confusion_matrix(probabilities, labels, len(classes)),
        calibration=reliability(probabilities, labels) if len(labels) else None,
        classes=class_table(probabilities, labels, classes, units, bootstrap),
        subgroups=tuple(
            subgroup_table(column, groups, probabilities, labels, classes, units, bootstrap)
            for column, groups in sorted(predictions.subgroups.items())
        ),
    )


def _disagreement(recorded: dict[str, Metric], found: dict[str, Metric]) -> list[str]:
    """run.json and predictions.npz must tell of the same model."""
    a, b = recorded.get("accuracy"), found["accuracy"]
    if a is None or not a.defined or not b.defined or abs(a.value - b.value) < 1e-4:
        return []
    return [
        (
            f"run.json states a test accuracy of {100 * a.value:.2f}%, predictions.npz gives "
            f"{100 * b.value:.2f}%: one of them was changed or is of another run. The page shows "
            "predictions.npz."
        )
    ]


def _absent(labels: NDArray[np.int64], classes: Sequence[str]) -> list[str]:
    missing = [name for k, name in enumerate(classes) if not (labels == k).any()]
    if not missing:
        return []
    named = ", ".join(repr(name) for name in missing)
    return [
        (
            f"No test image is of class {named}: nothing can be said about it, and averages over classes "
            "leave it out."
        )
    ]


def _majority(run: Run) -> tuple[float | None, str | None]:
    base = run.record.baseline
    if base.majority_accuracy is not None:
        return base.majority_accuracy, base.majority_class
    labels = run.predictions.labels if run.predictions is not None else None
    if labels is None or not len(labels):
        return None, None
    counts = np.bincount(labels, minlength=len(run.record.data.classes))
    return float(counts.max() / counts.sum()), run.record.data.classes[int(counts.argmax())]


def _compare(run: Run, results: Results, twin: Run, bootstrap: Bootstrap | None) -> Comparison:
    """Paired over the same units where both runs predicted the same test set, else without intervals."""
    others, _ = _results(twin, bootstrap)
    mine, theirs = run.predictions, twin.predictions
    same = (
        mine is not None
        and theirs is not None
        and mine.probabilities is not None
        and theirs.probabilities is not None
        and mine.labels is not None
        and theirs.labels is not None
        and np.array_equal(mine.labels, theirs.labels)
        and (
            run.record.data.fingerprint == twin.record.data.fingerprint
            or run.record.local_guarantee is not None
        )
    )
    if same and mine is not None and theirs is not None:
        differences = paired_differences(mine, theirs, run.record.data.classes, bootstrap)
    else:
        shared = [name for name in results.metrics if name in others.metrics]
        differences = {
            name: Metric(others.metrics[name].value - results.metrics[name].value) for name in shared
        }
    return Comparison(twin, others.metrics, differences, same)


def paired_differences(
    one: Predictions, other: Predictions, classes: Sequence[str], bootstrap: Bootstrap | None
) -> dict[str, Metric]:
    """Other minus one for every metric, both under the same resampled units."""
    from confide.evaluation.metrics import Family

    if one.probabilities is None or other.probabilities is None or one.labels is None:
        return {}
    first = Family(one.probabilities.astype(np.float64), one.labels, len(classes))
    second = Family(other.probabilities.astype(np.float64), one.labels, len(classes))
    units = np.arange(len(one.labels)) if one.unit_index is None else one.unit_index

    def difference(weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        a, b = first(weights), second(weights)
        return {name: b[name] - a[name] for name in a}

    return intervals(difference, units, bootstrap)


def metric_names(task: str) -> dict[str, tuple[str, bool]]:
    """name -> (title, higher is better) of a task's metrics."""
    return METRICS if task == "classification" else SEGMENTATION_METRICS
