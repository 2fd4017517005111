# SPDX-License-Identifier: Apache-2.0
"""Tables by class and by subgroup, against scikit-learn on the rows of each group alone."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sk

from confide.errors import DataError
from confide.evaluation.bootstrap import Bootstrap
from confide.evaluation.groups import FEWEST_UNITS, class_table, subgroup_table

CLASSES = ("a", "b", "c")


def draw(rows: int = 400) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities that are better for women than for men, labels, and the sex."""
    generator = np.random.default_rng()
    labels = generator.integers(0, 3, rows)
    sex = generator.choice(["female", "male"], rows)
    skill = np.where(sex == "female", 2.5, 0.3)[:, None]
    odds = np.exp(generator.normal(size=(rows, 3)) + skill * np.eye(3)[labels])
    return odds / odds.sum(axis=1, keepdims=True), labels, sex


def test_classes_equal_scikit_learn() -> None:
    scores, labels, _ = draw()
    predicted = scores.argmax(axis=1)
    for k, row in enumerate(class_table(scores, labels, CLASSES)):
        truth, said = labels == k, predicted == k
        assert row.name == CLASSES[k] and row.rows == truth.sum()
        assert row.sensitivity.value == pytest.approx(sk.recall_score(truth, said))
        assert row.specificity.value == pytest.approx(sk.recall_score(~truth, ~said))
        assert row.precision.value == pytest.approx(sk.precision_score(truth, said))
        assert row.f1.value == pytest.approx(sk.f1_score(truth, said))
        assert row.auc.value == pytest.approx(sk.roc_auc_score(truth, scores[:, k]))


def test_absent_and_never_predicted_classes_say_so() -> None:
    scores = np.array([[0.8, 0.1, 0.1], [0.7, 0.2, 0.1], [0.6, 0.3, 0.1]])
    a, b, c = class_table(scores, np.array([0, 1, 1]), CLASSES, bootstrap=Bootstrap(20))
    assert a.sensitivity.value == 1.0
    assert not b.precision.defined and b.precision.note == "class 'b' was never predicted"
    assert b.sensitivity.value == 0.0
    assert c.rows == 0
    for metric in (c.sensitivity, c.f1, c.auc, c.precision):
        assert not metric.defined and metric.note == "no test image is of class 'c'"
    assert c.specificity.value == 1.0


def test_groups_equal_scikit_learn_on_their_rows() -> None:
    scores, labels, sex = draw()
    table = subgroup_table("sex", sex, scores, labels, CLASSES, bootstrap=Bootstrap(100))
    assert [group.name for group in table.groups] == ["female", "male"]
    for group in table.groups:
        rows = sex == group.name
        predicted = scores[rows].argmax(axis=1)
        assert group.rows == group.units == rows.sum()
        expected = {
            "accuracy": sk.accuracy_score(labels[rows], predicted),
            "balanced_accuracy": sk.balanced_accuracy_score(labels[rows], predicted),
            "auc": sk.roc_auc_score(labels[rows], scores[rows], multi_class="ovr"),
            "brier": sk.brier_score_loss(labels[rows], scores[rows], labels=[0, 1, 2], scale_by_half=False),
        }
        for name, value in expected.items():
            assert group.metrics[name].value == pytest.approx(value, abs=1e-12), name
    women, men = table.groups
    for gap in table.gaps:
        assert (gap.best, gap.worst) == ("female", "male")
        apart = women.metrics[gap.metric].value - men.metrics[gap.metric].value
        assert gap.difference.value == pytest.approx(abs(apart))
        # Skills so far apart: about 90% against 45% right on 200 rows each, more than ten standard errors.
        assert gap.difference.low > 0


def test_few_people_are_not_broken_out_even_with_many_images() -> None:
    """Patients count, not images: nine patients with twenty images each could still be pointed at."""
    scores, labels, _ = draw(400)
    units = np.r_[np.repeat(np.arange(FEWEST_UNITS - 1), 20), np.arange(1000, 1220)]
    site = np.where(units < 1000, "small", "large")
    table = subgroup_table("site", site, scores, labels, CLASSES, units)
    large, small = table.groups
    assert small.too_small and small.units == FEWEST_UNITS - 1 and small.rows == 180
    assert not large.too_small
    assert table.gaps == ()
    one_more = np.r_[np.repeat(np.arange(FEWEST_UNITS), 18), np.arange(1000, 1220)]
    assert not any(
        group.too_small for group in subgroup_table("site", site, scores, labels, CLASSES, one_more).groups
    )


def test_unrecorded_is_a_group_and_misfits_are_refused() -> None:
    scores, labels, sex = draw()
    sex[:50] = ""
    table = subgroup_table("sex", sex, scores, labels, CLASSES)
    assert [group.name for group in table.groups] == ["not recorded", "female", "male"]
    with pytest.raises(DataError, match="column 'sex' has shape"):
        subgroup_table("sex", sex[1:], scores, labels, CLASSES)


def test_a_group_with_one_class_only() -> None:
    scores, labels, sex = draw()
    labels[sex == "male"] = 1
    table = subgroup_table("sex", sex, scores, labels, CLASSES, bootstrap=Bootstrap(20))
    men = table.groups[1]
    assert not men.metrics["auc"].defined and men.metrics["accuracy"].defined
    assert {gap.metric for gap in table.gaps} == {"accuracy", "balanced_accuracy", "brier"}
