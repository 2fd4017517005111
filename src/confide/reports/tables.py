# SPDX-License-Identifier: Apache-2.0
"""Tables of a report, as plain values that a template lays out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from confide.evaluation.bootstrap import Metric
from confide.evaluation.groups import GROUP_METRICS, ClassRow, SubgroupTable
from confide.evaluation.metrics import METRICS
from confide.reports.numbers import DASH, difference_text, metric_text


@dataclass(frozen=True)
class Cell:
    """One cell: what is read, what is sorted by, the interval, and why there is no value."""

    text: str
    value: float | str | None = None
    range: str = ""
    why: str = ""
    is_text: bool = False


@dataclass(frozen=True)
class Row:
    """One row; `link` points to the page of a run."""

    name: str
    cells: tuple[Cell, ...]
    link: str = ""


@dataclass(frozen=True)
class Table:
    """A table with a caption; the first heading is that of the row names."""

    caption: str
    headings: tuple[str, ...]
    rows: tuple[Row, ...]
    sortable: bool = False
    texts: frozenset[str] = frozenset()


@dataclass(frozen=True)
class HeatCell:
    """A count of the confusion matrix and its share of the row."""

    count: int
    share: float
    hit: bool
    title: str


@dataclass(frozen=True)
class HeatRow:
    """One true class."""

    name: str
    cells: tuple[HeatCell, ...]


@dataclass(frozen=True)
class Heat:
    """A confusion matrix."""

    caption: str
    classes: tuple[str, ...]
    rows: tuple[HeatRow, ...]


def metric_cell(name: str, metric: Metric | None) -> Cell:
    """A metric with its interval in muted type."""
    if metric is None:
        return Cell(DASH)
    if not metric.defined:
        return Cell(DASH, why=metric.note)
    text, _, rest = metric_text(name, metric).partition(" (")
    return Cell(text, metric.value, f"({rest}" if rest else "", metric.note)


def metric_table(metrics: Mapping[str, Metric], names: Mapping[str, tuple[str, bool]], caption: str) -> Table:
    """One metric a row."""
    rows = [
        Row(title, (metric_cell(name, metrics[name]), Cell("higher" if up else "lower", is_text=True)))
        for name, (title, up) in names.items()
        if name in metrics
    ]
    return Table(
        caption, ("metric", "value (95% interval)", "better is"), tuple(rows), texts=frozenset({"better is"})
    )


def class_rows(rows: Sequence[ClassRow]) -> Table:
    """Per-class figures, sortable."""
    names = ("sensitivity", "specificity", "precision", "f1", "auc")
    body = []
    for row in rows:
        values = (row.sensitivity, row.specificity, row.precision, row.f1, row.auc)
        # The note about an absent class stands once, not in each cell.
        why = row.sensitivity.note
        cells = [Cell(f"{row.rows:,}", row.rows, why=why)]
        cells += [
            metric_cell(name, Metric(v.value, v.low, v.high, "" if v.note == why else v.note))
            for name, v in zip(names, values, strict=True)
        ]
        body.append(Row(row.name, tuple(cells)))
    headings = (
        "class",
        "test images",
        "sensitivity",
        "specificity",
        "precision",
        "F1",
        "AUC against the rest",
    )
    return Table("Each class against the rest, with 95% intervals", headings, tuple(body), sortable=True)


def subgroup_rows(table: SubgroupTable) -> Table:
    """Figures of every subgroup of a column."""
    body = []
    for group in table.groups:
        counts = (Cell(f"{group.units:,}", group.units), Cell(f"{group.rows:,}", group.rows))
        if group.too_small:
            body.append(Row(group.name, (*counts, Cell(DASH, why="too few to say"), *[Cell(DASH)] * 3)))
        else:
            cells = [metric_cell(name, group.metrics[name]) for name in GROUP_METRICS]
            body.append(Row(group.name, (*counts, *cells)))
    headings = (table.column, "units", "images", *(METRICS[name][0] for name in GROUP_METRICS))
    return Table(f"By {table.column}, with 95% intervals", headings, tuple(body), sortable=True)


def gap_sentence(table: SubgroupTable) -> str:
    """The largest gap, said so that chance is not mistaken for a difference."""
    small = [group.name for group in table.groups if group.too_small]
    withheld = f" Groups of fewer than 10 units are not broken out: {', '.join(small)}." if small else ""
    gap = next((g for g in table.gaps if g.metric == "balanced_accuracy"), None)
    gap = gap or next((g for g in table.gaps if g.metric == "accuracy"), None)
    if gap is None:
        return f"There are not two groups large enough to compare.{withheld}"
    size = difference_text(gap.metric, gap.difference).removeprefix("+")
    title = METRICS[gap.metric][0]
    found = gap.difference
    # The pair was chosen for its gap: an interval that ends near zero says little.
    sure = "more than chance would give" if found.low > 0 else "which may be chance"
    if found.low != found.low:
        sure = "without an interval"
    return (
        f"Largest gap in {title}: {size} between {gap.best} (best) and {gap.worst} (worst), {sure}.{withheld}"
    )


def heat(matrix: NDArray[np.int64], classes: Sequence[str]) -> Heat:
    """The confusion matrix, shaded by the share of each true class."""
    rows = []
    for i, name in enumerate(classes):
        total = int(matrix[i].sum())
        cells = []
        for j, guess in enumerate(classes):
            count = int(matrix[i, j])
            share = count / total if total else 0.0
            title = f"{count} of {total} {name} called {guess} ({100 * share:.0f}%)"
            cells.append(HeatCell(count, round(share, 3), i == j, title))
        rows.append(HeatRow(name, tuple(cells)))
    return Heat("Test images by true class (rows) and predicted class (columns)", tuple(classes), tuple(rows))


def comparison_table(
    private: Mapping[str, Metric], twin: Mapping[str, Metric], differences: Mapping[str, Metric], paired: bool
) -> Table:
    """Private beside non-private, metric by metric."""
    rows = []
    for name, (title, _) in METRICS.items():
        if name not in differences:
            continue
        difference = differences[name]
        text, _, rest = difference_text(name, difference).partition(" (")
        cells = (
            metric_cell(name, private.get(name)),
            metric_cell(name, twin.get(name)),
            Cell(text, difference.value, f"({rest}" if rest else ""),
        )
        rows.append(Row(title, cells))
    caption = "With and without privacy, on the same test images; the difference is without minus with"
    if not paired:
        caption += "; the two runs have no common predictions, so the difference has no interval"
    return Table(caption, ("metric", "with privacy", "without", "difference"), tuple(rows))


def plain(caption: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table of texts."""
    body = tuple(Row(row[0], tuple(Cell(text, is_text=True) for text in row[1:])) for row in rows)
    return Table(caption, tuple(headings), body, texts=frozenset(headings[1:]))


def numbers(
    caption: str, headings: Sequence[str], columns: Sequence[Sequence[float]], digits: int = 3
) -> Table:
    """Numbers behind a figure, a column each; at most 60 rows, evenly thinned."""
    length = len(columns[0])
    keep = np.unique(np.linspace(0, length - 1, min(length, 60)).astype(int)) if length else []
    rows = tuple(
        Row(f"{columns[0][i]:.{digits}g}", tuple(Cell(f"{c[i]:.{digits}g}", c[i]) for c in columns[1:]))
        for i in keep
    )
    return Table(caption, tuple(headings), rows)
