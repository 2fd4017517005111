# SPDX-License-Identifier: Apache-2.0
"""Tables and claims: each figure against one worked out by hand."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from confide.errors import ConfigError
from confide.experiments.claims import Difference, judge, verdicts
from confide.experiments.record import DataRecord, Measured, ModelRecord, RunRecord
from confide.experiments.sweep_grid import Grid
from confide.experiments.sweep_record import CellRecord, Point
from confide.experiments.tables import TableSpec, figure, mean_interval, render
from confide.privacy.units import PrivacyUnit

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def run(value: float, half: float) -> RunRecord:
    measured = Measured(value=value, low=value - half, high=value + half)
    return RunRecord(
        name="r",
        status="finished",
        created=NOW,
        data=DataRecord(
            name="d", fingerprint="f", unit=PrivacyUnit.IMAGE, units=9, rows={"train": 9}, classes=["a", "b"]
        ),
        model=ModelRecord(name="resnet9", parameters=123),
        metrics={"test": {"accuracy": measured}},
        guarantee={"epsilon": 7.42, "noise_multiplier": 1.5},
    )


def record(value: float | None, half: float = 0.0, status: Any = "finished", **labels: str) -> CellRecord:
    curve = [
        Point(step=s, epoch=s, split=split, metrics={"accuracy": v})
        for split, values in {"validation": [0.5, 0.9, 0.9], "test": [0.95, 0.6, 0.7]}.items()
        for s, v in enumerate(values, start=1)
    ]
    return CellRecord(
        grid="g",
        cell="-".join(labels.values()),
        labels=labels,
        digest="0",
        status=status,
        started=NOW,
        seconds=1,
        experiment={},
        run=None if value is None else run(value, half),
        curve=curve,
        figures={
            "measures": [
                {"step": 1, "train": {"accuracy": 0.3}, "sparsity": 0.1},
                {"step": 2, "train": {"accuracy": 0.4}, "sparsity": 0.2},
            ],
            "deep": {"er": 3},
        },
    )


def grid(**values: Any) -> Grid:
    return Grid.parse({"name": "g", "base": {}, **values}, where=Path("g.yaml"))


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("test.accuracy", 0.8),
        ("best:test.accuracy", 0.95),
        # Validation is best at step 2 (the earlier of two), where the test score is 0.6.
        ("chosen:test.accuracy", 0.6),
        ("train.accuracy", 0.4),
        ("last:sparsity", 0.2),
        ("last:absent", None),
        ("figure:deep.er", 3.0),
        ("figure:deep.absent.more", None),
        ("parameters", 123.0),
        ("epsilon", 7.42),
        ("sigma", 1.5),
        ("test.dice", None),
    ],
)
def test_each_word_names_its_figure(word: str, expected: float | None) -> None:
    assert figure(record(0.8), word) == expected


def test_a_word_that_names_nothing_is_refused() -> None:
    for word in ("accuracy", "worst:test.accuracy"):
        with pytest.raises(ConfigError, match="no figure"):
            figure(record(0.8), word)


def test_a_figure_of_a_cell_without_a_run_is_absent() -> None:
    assert figure(record(None), "parameters") is None
    assert figure(record(None), "test.accuracy") is None


def test_a_table_has_our_mean_and_their_figure() -> None:
    spec = TableSpec(
        title="t", rows=("group",), columns=("data", "privacy"), figures={"accuracy": "test.accuracy"}
    )
    labels = {"data": "derma", "augmentation": "with", "privacy": "private"}
    found = render(
        grid(published="hoelzl"),
        spec,
        [
            record(0.70, seed="s0", group="C4", **labels),
            record(0.74, seed="s1", group="C4", **labels),
            record(0.5, seed="s0", group="e", **labels),
            record(0.99, seed="s0", group="O2", status="failed", **labels),
        ],
    )
    assert found is not None
    assert found.header == ["group", "derma, private"]
    # Standard deviation of 70 and 74 with n - 1: 2.83. The published figure needs all its labels.
    assert found.rows == [["C4", "72.0 ± 2.8"], ["e", "50.0"]]
    fixed = spec.model_copy(update={"where": {"augmentation": "with"}})
    again = render(grid(published="hoelzl"), fixed, [record(0.70, group="C4", **labels)])
    assert again is not None and again.rows == [["C4", "70.0 (74.17)"]]
    assert "| C4 | 70.0 (74.17) |" in again.markdown()


def test_epsilon_is_rounded_up() -> None:
    spec = TableSpec(
        title="t", rows=("group",), figures={"ε": "epsilon"}, factor=1, decimals=1, rounding="up"
    )
    found = render(grid(), spec, [record(0.5, group="e")])
    assert found is not None and found.rows == [["e", "7.5"]]  # of 7.42


def test_a_table_of_cells_that_have_not_run_is_left_out() -> None:
    spec = TableSpec(title="t", rows=("group",), figures={"accuracy": "test.accuracy"})
    assert render(grid(), spec, []) is None
    assert render(grid(), spec, [record(None, group="e")]) is None


def test_the_mean_of_independent_runs_has_a_smaller_interval() -> None:
    found = mean_interval([record(0.6, 0.3), record(0.8, 0.4)], "test.accuracy")
    assert found is not None
    # √(0.3² + 0.4²)/2
    assert found == (pytest.approx(0.7), pytest.approx(0.25))
    assert mean_interval([record(None)], "test.accuracy") is None


@pytest.mark.parametrize(
    ("left", "right", "half", "verdict"),
    [
        (0.8, 0.7, 0.01, "holds"),
        (0.7, 0.8, 0.01, "does not hold"),
        # 0.1 lies within √2·0.08 = 0.113, and not within √2·0.07 = 0.099.
        (0.8, 0.7, 0.08, "undecided: within the intervals"),
        (0.8, 0.7, 0.07, "holds"),
    ],
)
def test_a_difference_within_its_intervals_decides_nothing(
    left: float, right: float, half: float, verdict: str
) -> None:
    test = Difference(figure="test.accuracy", left={"group": "C4"}, right={"group": "e"})
    records = [record(left, half, group="C4"), record(right, half, group="e")]
    assert judge(test, records)[1] == verdict


def test_a_claim_is_judged_for_each_label_and_failed_cells_have_no_say() -> None:
    test = Difference(figure="test.accuracy", left={"group": "C4"}, right={"group": "e"}, by="data")
    records = [
        record(0.9, 0.01, group="C4", data="a"),
        record(0.5, 0.01, group="e", data="a"),
        record(0.5, 0.01, group="C4", data="b"),
        record(0.9, 0.01, group="e", data="b"),
        record(0.9, 0.01, status="failed", group="C4", data="c"),
        record(0.1, 0.01, group="e", data="c"),
    ]
    words, verdict = judge(test, records)
    assert words == "a: +40.0 ± 1.4 points; b: -40.0 ± 1.4 points"
    assert verdict == "holds in 1 of 2, fails in 1, undecided in 0"
    assert judge(test, [])[1] == "not run"


def test_a_side_may_be_a_difference_itself() -> None:
    test = Difference(
        figure="test.accuracy",
        left={"group": "e", "privacy": "none"},
        left_less={"group": "e", "privacy": "dp"},
        right={"group": "C4", "privacy": "none"},
        right_less={"group": "C4", "privacy": "dp"},
    )
    records = [
        record(0.9, 0.01, group="e", privacy="none"),
        record(0.6, 0.01, group="e", privacy="dp"),
        record(0.8, 0.01, group="C4", privacy="none"),
        record(0.7, 0.01, group="C4", privacy="dp"),
    ]
    # (0.9 − 0.6) − (0.8 − 0.7), and four intervals of 0.01.
    assert judge(test, records) == ("+20.0 ± 2.0 points", "holds")
    assert judge(test, records[:3])[1] == "not run"


def test_a_reasoned_verdict_is_shown_as_it_is() -> None:
    claims = [{"claim": "c", "theirs": "t", "ours": "o", "verdict": "not derivable"}]
    found = verdicts(grid(claims=claims), {})
    assert found is not None
    assert found.rows == [["c", "t", "o", "not derivable"]]
    assert verdicts(grid(), {}) is None


def test_the_largest_scale_that_ran_decides_and_all_are_shown() -> None:
    test = {"figure": "test.accuracy", "left": {"group": "C4"}, "right": {"group": "e"}}
    claims = [{"claim": "c", "theirs": "t", "test": test}]
    better = [record(0.9, 0.01, group="C4"), record(0.5, 0.01, group="e")]
    worse = [record(0.5, 0.01, group="C4"), record(0.9, 0.01, group="e")]
    found = verdicts(grid(claims=claims), {"quick": better, "paper": worse})
    assert found is not None
    shown = "paper scale: -40.0 ± 1.4 points. quick scale: +40.0 ± 1.4 points"
    assert found.rows == [["c", "t", shown, "does not hold"]]
    found = verdicts(grid(claims=claims), {"quick": better, "paper": worse[:1]})
    assert found is not None
    assert found.rows == [["c", "t", "quick scale: +40.0 ± 1.4 points", "holds"]]
