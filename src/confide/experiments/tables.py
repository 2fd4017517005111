# SPDX-License-Identifier: Apache-2.0
"""Tables of a grid's records: which axes make rows and columns, and which figure stands in the cells.

A figure is named by a word:

| word | figure |
|---|---|
| `test.accuracy` | of the finished model, on the split named first |
| `best:test.accuracy` | the highest of its curve: chosen by the test images themselves, as some papers do |
| `chosen:test.accuracy` | of the evaluation with the best validation score: the test images chose nothing |
| `train.accuracy` | of training images, see `sweep_measures` |
| `last:sparsity` | the last of a figure taken at each evaluation |
| `figure:saliency.impulse_magnitude` | any other figure of the record |
| `parameters`, `seconds`, `epsilon`, `sigma` | of the run |

Published figures come from a data file, entry by entry, with the labels of the cell that each belongs to.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any, Literal

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict

from confide.errors import ConfigError
from confide.experiments.sweep_grid import Grid, matches
from confide.experiments.sweep_record import CellRecord
from confide.privacy.guarantee import rounded_up


class Published(BaseModel):
    """One figure of a paper.

    Attributes:
        figure: The word of the figure it is compared with.
        where: Labels of the cells it belongs to.
        value: As printed.
        note: Which place of the paper, or what is doubtful about it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    figure: str
    where: dict[str, str | list[str]]
    value: float
    note: str = ""


class TableSpec(BaseModel):
    """How a table is laid out; `factor` multiplies, for example 100 for per cent; ε is rounded up."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...] = ()
    figures: dict[str, str]
    where: dict[str, str | list[str]] = {}
    factor: float = 100.0
    decimals: int = 1
    rounding: Literal["nearest", "up"] = "nearest"
    note: str = ""


@dataclass(frozen=True)
class Rendered:
    """A table as text."""

    title: str
    header: list[str]
    rows: list[list[str]]
    note: str = ""

    def markdown(self) -> str:
        """As a Markdown table."""
        lines = [f"**{self.title}**", ""] if self.title else []
        lines += ["| " + " | ".join(self.header) + " |", "|" + "---|" * len(self.header)]
        lines += ["| " + " | ".join(row) + " |" for row in self.rows]
        return "\n".join([*lines, "", *([self.note, ""] if self.note else [])])


@lru_cache(maxsize=8)
def published(name: str) -> tuple[Published, ...]:
    """The published figures of a data file.

    Raises:
        ConfigError: If there is no such file.
    """
    folder = resources.files("confide.experiments") / "published" / "numbers"
    try:
        values = yaml.safe_load((folder / f"{name}.yaml").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"there are no published figures {name!r}") from None
    return tuple(Published.model_validate(entry) for entry in values["figures"])


def figure(record: CellRecord, word: str) -> float | None:
    """A figure of a record; None where it was not taken.

    Raises:
        ConfigError: If the word means nothing.
    """
    kind, colon, rest = word.partition(":")
    if colon:
        match kind:
            case "best":
                return _best(record, rest)
            case "chosen":
                return _chosen(record, rest)
            case "last":
                lines = [line for line in record.figures.get("measures", []) if rest in line]
                return lines[-1][rest] if lines else None
            case "figure":
                return _nested(record.figures, rest)
            case _:
                raise ConfigError(f"there is no figure {word!r}")
    if word in _RUN:
        return _RUN[word](record)
    split, dot, name = word.partition(".")
    if not dot:
        raise ConfigError(f"there is no figure {word!r}")
    if split == "train":
        lines = [line["train"] for line in record.figures.get("measures", []) if "train" in line]
        return lines[-1].get(name) if lines else None
    return record.metric(name, split)


def _best(record: CellRecord, word: str) -> float | None:
    split, _, name = word.partition(".")
    values = [v for point in record.points(split) if (v := point.metrics.get(name)) is not None]
    return max(values, default=None)


def _chosen(record: CellRecord, word: str) -> float | None:
    """The first evaluation of the highest validation score decides; ties go to the earlier."""
    split, _, name = word.partition(".")
    scored = [(v, -p.step) for p in record.points("validation") if (v := p.metrics.get(name)) is not None]
    if not scored:
        return None
    step = -max(scored)[1]
    return next((p.metrics.get(name) for p in record.points(split) if p.step == step), None)


def _nested(values: Any, path: str) -> float | None:
    for key in path.split("."):
        values = values.get(key) if isinstance(values, Mapping) else None
    return float(values) if isinstance(values, int | float) else None


_RUN = {
    "parameters": lambda r: float(r.run.model.parameters) if r.run else None,
    "seconds": lambda r: r.run.cost.seconds if r.run else None,
    "epsilon": lambda r: r.run.guarantee["epsilon"] if r.run and r.run.guarantee else None,
    "sigma": lambda r: r.run.guarantee["noise_multiplier"] if r.run and r.run.guarantee else None,
    "majority": lambda r: r.run.baseline.majority_accuracy if r.run else None,
}


def render(grid: Grid, spec: TableSpec, records: Sequence[CellRecord]) -> Rendered | None:
    """A table; None if none of its cells has run."""
    used = [r for r in records if r.status == "finished" and matches(r.labels, spec.where)]
    theirs = published(grid.published) if grid.published else ()
    rows, columns = _combinations(spec.rows, used), _combinations(spec.columns, used)
    header = [" / ".join(spec.rows)]
    shown = list(itertools.product(columns, spec.figures.items()))
    for labels, (title, _) in shown:
        words = [*labels.values(), *([title] if len(spec.figures) > 1 or not labels else [])]
        header.append(", ".join(words))
    body: list[list[str]] = []
    for row in rows:
        texts = [_cell(used, {**row, **labels}, word, spec, theirs) for labels, (_, word) in shown]
        if any(text != "–" for text in texts):
            body.append([" / ".join(row.values()), *texts])
    if not body:
        return None
    return Rendered(spec.title, header, body, spec.note)


def _cell(
    records: Sequence[CellRecord],
    labels: Mapping[str, str],
    word: str,
    spec: TableSpec,
    theirs: Sequence[Published],
) -> str:
    """Ours, with the spread over what is left (seeds), and the published figure in brackets."""
    values = [
        value * spec.factor
        for record in records
        if matches(record.labels, labels) and (value := figure(record, word)) is not None
    ]
    ours = "–"
    if values:
        mean = float(np.mean(values))
        ours = rounded_up(mean, spec.decimals) if spec.rounding == "up" else f"{mean:.{spec.decimals}f}"
        if len(values) > 1 and min(values) < max(values):
            ours += f" ± {np.std(values, ddof=1):.{spec.decimals}f}"
    known = [entry for entry in theirs if entry.figure == word and _names(entry, labels, spec)]
    return f"{ours} ({known[0].value:g})" if known else ours


def _names(entry: Published, labels: Mapping[str, str], spec: TableSpec) -> bool:
    """Whether a published figure belongs to these labels, with those that the table is limited to."""
    fixed = {axis: wanted for axis, wanted in spec.where.items() if isinstance(wanted, str)}
    return matches({**fixed, **labels}, entry.where)


def _combinations(axes: Sequence[str], records: Sequence[CellRecord]) -> list[dict[str, str]]:
    """The label combinations of some axes that occur, in the order of the records."""
    seen = {tuple(record.labels.get(axis, "") for axis in axes): None for record in records}
    return [dict(zip(axes, labels, strict=True)) for labels in seen]


def mean_interval(records: Sequence[CellRecord], word: str) -> tuple[float, float] | None:
    """Mean of a figure over records, and the half-width of its 95% interval; None without a value.

    The half-width is that of the test images' bootstrap for final metrics, averaged as of independent runs.
    It knows nothing of how much another seed would change.
    """
    values, halves = [], []
    for record in records:
        value = figure(record, word)
        if value is None:
            continue
        values.append(value)
        split, _, name = word.rpartition(":")[2].partition(".")
        span = record.interval(name, split) if name else None
        halves.append((span[1] - span[0]) / 2 if span else 0.0)
    if not values:
        return None
    return float(np.mean(values)), math.sqrt(sum(half**2 for half in halves)) / len(halves)
