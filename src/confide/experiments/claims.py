# SPDX-License-Identifier: Apache-2.0
"""What the papers claim, held against our records: claim, their evidence, our evidence, verdict.

A claim is tested by a difference: a figure of some cells less that of others, once for each label of `by`. A
difference smaller than the 95% intervals of its two sides decides nothing, and the verdict says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict

from confide.experiments.sweep_grid import Grid, matches
from confide.experiments.sweep_record import CellRecord
from confide.experiments.tables import Rendered, mean_interval

Where = dict[str, str | list[str]]
NOT_RUN = "not run"


class Difference(BaseModel):
    """`figure` of the cells of `left` less that (or `against`) of `right`: claimed to be positive.

    With `left_less` and `right_less`, each side is itself a difference, such as what DP costs a network.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    figure: str
    against: str | None = None
    left: Where
    right: Where
    left_less: Where | None = None
    right_less: Where | None = None
    by: str | None = None
    factor: float = 100.0
    unit: str = "points"


class Claim(BaseModel):
    """A claim; without a `test` the verdict is reasoned, not measured, and `ours` and `verdict` state it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    claim: str
    theirs: str
    test: Difference | None = None
    ours: str = ""
    verdict: str = ""


def verdicts(grid: Grid, records: Mapping[str, Sequence[CellRecord]]) -> Rendered | None:
    """The claims of a grid as a table; None if it has none.

    records: of each scale, the smallest first. The largest that has run what a claim needs decides; the
    evidence of all is shown.
    """
    if not grid.claims:
        return None
    rows: list[list[str]] = []
    for values in grid.claims:
        claim = Claim.model_validate(values)
        ours, verdict = (claim.ours, claim.verdict)
        if claim.test is not None:
            judged = {scale: judge(claim.test, found) for scale, found in records.items()}
            ran = [(f"{scale} scale: {text}", word) for scale, (text, word) in judged.items() if text]
            verdict = ran[-1][1] if ran else NOT_RUN
            ours = " ".join([". ".join(text for text, _ in reversed(ran)), claim.ours]).strip()
        rows.append([claim.claim, claim.theirs, ours, verdict])
    return Rendered("", ["claim", "their evidence", "our evidence", "verdict"], rows)


def judge(test: Difference, records: Sequence[CellRecord]) -> tuple[str, str]:
    """Our evidence in words, and the verdict."""
    done = [record for record in records if record.status == "finished"]
    axis = test.by or ""
    texts: list[str] = []
    signs: list[int] = []
    for label in dict.fromkeys(record.labels.get(axis, "") for record in done):
        only: Where = {axis: label} if label else {}
        here = [record for record in done if matches(record.labels, only)]
        left = _side(here, test.left, test.left_less, test.figure)
        right = _side(here, test.right, test.right_less, test.against or test.figure)
        if left is None or right is None:
            continue
        difference, half = left[0] - right[0], math.hypot(left[1], right[1])
        signs.append(0 if abs(difference) <= half else (1 if difference > 0 else -1))
        spread = f" ± {test.factor * half:.1f}" if half else ""
        texts.append(f"{label + ': ' if label else ''}{test.factor * difference:+.1f}{spread} {test.unit}")
    return "; ".join(texts), _verdict(signs)


def _side(
    records: Sequence[CellRecord], where: Where, less: Where | None, word: str
) -> tuple[float, float] | None:
    """Mean and half-width of one side; None if a part of it has not run."""
    first = mean_interval([r for r in records if matches(r.labels, where)], word)
    if first is None or less is None:
        return first
    second = mean_interval([r for r in records if matches(r.labels, less)], word)
    return None if second is None else (first[0] - second[0], math.hypot(first[1], second[1]))


def _verdict(signs: Sequence[int]) -> str:
    if not signs:
        return NOT_RUN
    yes, no = signs.count(1), signs.count(-1)
    if yes == len(signs):
        return "holds"
    if no == len(signs):
        return "does not hold"
    if yes == no == 0:
        return "undecided: within the intervals"
    return f"holds in {yes} of {len(signs)}, fails in {no}, undecided in {len(signs) - yes - no}"
