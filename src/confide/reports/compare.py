# SPDX-License-Identifier: Apache-2.0
"""Several runs side by side: a sortable table, the privacy-utility frontier, tests of differences."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from confide.errors import DataError
from confide.evaluation.bootstrap import Metric
from confide.evaluation.significance import Test, holm, mcnemar, paired_repeats, unpaired_repeats
from confide.experiments.record import Run
from confide.privacy.guarantee import rounded_up
from confide.reports import figures
from confide.reports.content import Content, content_of
from confide.reports.figures import Interval, Level
from confide.reports.html import render, write_text
from confide.reports.numbers import DASH, SHARES, duration, scientific
from confide.reports.plots import Plot, Shown
from confide.reports.tables import Cell, Row, Table, metric_cell

if TYPE_CHECKING:
    from confide.reports.build import Options

COLUMNS = ("accuracy", "balanced_accuracy", "auc", "brier", "ece")
MOST_PAIRS = 45


@dataclass(frozen=True)
class Group:
    """Repeats of one experiment: the same data, model, settings and privacy parameters."""

    label: str
    members: Sequence[Content]

    @property
    def private(self) -> bool:
        """Whether these runs claim a guarantee."""
        return self.members[0].claim is not None


def write_comparison(runs: Sequence[Run], out: Path, options: Options) -> list[Path]:
    """The comparison page, its JSON, and a page for every run.

    Args:
        runs: At least two runs.
        out: Folder to write into.
        options: What goes in.
    """
    from confide.reports.build import DATA, PAGE, is_twin, summary, write_page

    contents: list[Content] = []
    for run in runs:
        twin = next((other for other in runs if is_twin(run, other)), None)
        contents.append(content_of(run, twin))
    links = _links(contents)
    page = write_text(out / PAGE, render("compare.html", comparison_view(contents, links), options.made))
    data = {"runs": [summary(content) for content in contents], "tests": tests(contents)}
    written = [page, write_text(out / DATA, json.dumps(data, indent=1, allow_nan=False) + "\n")]
    written += [write_page(c, out / link, options) for c, link in zip(contents, links, strict=True)]
    if options.figures:
        folder = out / "figures"
        folder.mkdir(parents=True, exist_ok=True)
        written += [path for plot in frontiers(contents) for path in plot.save(folder)]
    return written


def comparison_view(contents: Sequence[Content], links: Sequence[str]) -> dict[str, Any]:
    """What `templates/compare.html` lays out."""
    drawn: list[Shown] = [plot.shown() for plot in frontiers(contents)]
    return {
        "title": f"{len(contents)} runs compared",
        "heading": f"{len(contents)} runs compared",
        "subtitle": ", ".join(sorted({c.run.record.data.title or c.run.record.data.name for c in contents})),
        "contents": [("runs", "Runs"), ("frontier", "Privacy and accuracy"), ("tests", "Differences")],
        "notices": _notices(contents),
        "runs": run_table(contents, links),
        "frontiers": drawn,
        "tests": test_table(contents),
    }


def _links(contents: Sequence[Content]) -> list[str]:
    """A file name for the page of each run, unique and harmless whatever the run is called."""
    links: list[str] = []
    for content in contents:
        stem = (
            "".join(c if c.isalnum() or c in "-_." else "-" for c in content.run.record.name).strip(".")
            or "run"
        )
        link = next(
            name
            for n in itertools.count(1)
            if (name := f"run-{stem}{'' if n == 1 else f'-{n}'}.html") not in links
        )
        links.append(link)
    return links


def _notices(contents: Sequence[Content]) -> list[str]:
    found: list[str] = []
    if len({c.run.record.data.fingerprint for c in contents}) > 1:
        found.append("These runs are on different data: figures are comparable within one data set only.")
    if len({c.run.record.data.unit for c in contents}) > 1:
        found.append(
            "The guarantees protect different units (such as images and patients): their ε do not compare."
        )
    seeded = [c.run.record.name for c in contents if c.claim is not None and not c.claim.private]
    if seeded:
        found.append(f"Not private, because seeded: {', '.join(seeded)}.")
    for content in contents:
        state = content.run.record.status
        if state != "finished":
            found.append(f"{content.run.record.name} is not finished ({state}): its figures are up to then.")
    pairs = len(groups_of(contents)) * (len(groups_of(contents)) - 1) // 2
    if pairs > MOST_PAIRS:
        found.append(
            f"Of {pairs} pairs of experiments the first {MOST_PAIRS} are tested; give fewer runs for all."
        )
    spent = [c for c in contents if c.claim is not None and c.claim.private]
    if len(spent) > 1:
        found.append(
            "Publishing several of these models adds up: their losses of privacy compose on data they share "
            "(confide ledger show)."
        )
    return found


def run_table(contents: Sequence[Content], links: Sequence[str]) -> Table:
    """One run a row; every column sorts."""
    rows: list[Row] = []
    several = len({c.run.record.data.fingerprint for c in contents}) > 1
    for content, link in zip(contents, links, strict=True):
        record = content.run.record
        seconds = record.cost.seconds
        cells = [
            *([Cell(record.data.title or record.data.name, is_text=True)] if several else []),
            _epsilon_cell(content),
            _unit_cell(content),
            *(metric_cell(name, content.results.metrics.get(name)) for name in COLUMNS),
            Cell(f"{record.model.parameters:,}", record.model.parameters),
            Cell(DASH) if seconds is None else Cell(duration(seconds), seconds),
        ]
        rows.append(Row(record.name, tuple(cells), link))
    headings = ("ε", "unit", "accuracy", "balanced accuracy", "AUC", "Brier", "ECE", "parameters", "time")
    first = ("run", "data") if several else ("run",)
    caption = "Click a heading to sort by it"
    return Table(caption, (*first, *headings), tuple(rows), True, frozenset({"data", "unit"}))


def _unit_cell(content: Content) -> Cell:
    """Whom ε is about, and how it was counted."""
    if content.claim is None:
        return Cell(DASH, is_text=True)
    g = content.claim.guarantee
    return Cell(g.unit.value, is_text=True, range=f"{g.sampling}, {g.accountant.upper()}")


def _epsilon_cell(content: Content) -> Cell:
    claim = content.claim
    if claim is None:
        return Cell("none", float("inf"))
    if not claim.private:
        return Cell(DASH, float("inf"), why="seeded: not private")
    return Cell(rounded_up(claim.epsilon), claim.epsilon, f"at δ {scientific(claim.delta)}")


def groups_of(contents: Sequence[Content]) -> list[Group]:
    """Runs that repeat the same experiment, in the order of their first run."""
    found: dict[str, list[Content]] = {}
    for content in contents:
        record, claim = content.run.record, content.claim
        privacy = None
        if claim is not None:
            g = claim.guarantee
            privacy = (
                g.noise_multiplier,
                g.sampling_rate,
                g.delta,
                g.steps,
                g.unit,
                g.sampling,
                claim.private,
            )
        key = (record.data.fingerprint, record.model.name, record.model.options, record.training, privacy)
        found.setdefault(json.dumps(key, default=str, sort_keys=True), []).append(content)
    return [Group(_label(members), tuple(members)) for members in found.values()]


def _label(members: Sequence[Content]) -> str:
    first = members[0].run.record.name
    return (
        first
        if len(members) == 1
        else f"{first} and {len(members) - 1} repeat{'s' if len(members) > 2 else ''}"
    )


def frontiers(contents: Sequence[Content]) -> list[Plot]:
    """Accuracy against ε, a figure for every data set."""
    plots: list[Plot] = []
    fingerprints = list(dict.fromkeys(c.run.record.data.fingerprint for c in contents))
    for number, fingerprint in enumerate(fingerprints, start=1):
        members = [c for c in contents if c.run.record.data.fingerprint == fingerprint]
        plots += [
            plot
            for name, title in (("accuracy", "accuracy"), ("balanced_accuracy", "balanced accuracy"))
            if (plot := _frontier(members, name, title, f"frontier-{number}-{name.replace('_', '-')}"))
            is not None
        ]
    return plots


def _frontier(contents: Sequence[Content], name: str, title: str, anchor: str) -> Plot | None:
    by_model: dict[str, list[Interval]] = {}
    twins: list[Interval] = []
    for content in contents:
        metric = content.results.metrics.get(name)
        if metric is None or not metric.defined:
            continue
        record = content.run.record
        low, high = (metric.low, metric.high) if metric.low == metric.low else (metric.value, metric.value)
        if content.claim is None:
            twins.append(Interval(record.name, metric.value, low, high))
        elif np.isfinite(content.claim.epsilon) and content.claim.epsilon > 0:
            point = Interval(record.name, metric.value, low, high, content.claim.epsilon)
            by_model.setdefault(f"{record.model.name}, with privacy", []).append(point)
    if not by_model and not twins:
        return None
    majority = contents[0].majority if name == "accuracy" else 1 / len(contents[0].run.record.data.classes)
    label = "always the most frequent class"
    data = contents[0].run.record.data
    points = [(p.label, p.x, p.value) for points in by_model.values() for p in points]
    rows = [Row(n, (Cell(rounded_up(x or 0), x), Cell(f"{y:.3f}", y))) for n, x, y in points]
    rows += [Row(p.label, (Cell("none", float("inf")), Cell(f"{p.value:.3f}", p.value))) for p in twins]
    return Plot(
        anchor,
        f"{title.capitalize()} against privacy, {data.title or data.name}",
        "Up and to the left is better: more accurate, and a smaller loss of privacy. Lines: 95% intervals "
        "over the test set; they do not hold the chance of training, which repeats show.",
        f"Scatter of {len(rows)} runs: {title} against ε.",
        partial(
            figures.frontier,
            list(by_model.items()),
            twins,
            None if majority is None else Level(label, majority),
            ylabel=title,
        ),
        Table(f"{title.capitalize()} and ε", ("run", "ε", title), tuple(rows)),
    )


def tests(contents: Sequence[Content], name: str = "accuracy") -> list[dict[str, Any]]:
    """Every pair of experiments on the same data, tested; p-values corrected by Holm for their number."""
    groups = groups_of(contents)
    found: list[dict[str, Any]] = []
    for first, second in itertools.islice(itertools.combinations(groups, 2), MOST_PAIRS):
        a, b = first.members[0].run.record.data, second.members[0].run.record.data
        if a.fingerprint != b.fingerprint or (test := _test(first, second, name)) is None:
            continue
        found.append({"first": first.label, "second": second.label, "metric": name, **vars(test)})
    for row, corrected in zip(found, holm([row["p"] for row in found]), strict=True):
        row["p_holm"] = corrected
    return found


def _test(first: Group, second: Group, name: str) -> Test | None:
    """Over repeats where there are any; else over the images of the common test set."""
    one, other = (_values(group, name) for group in (first, second))
    common = sorted(set(one) & set(other))
    try:
        if len(common) >= 2:
            return paired_repeats([one[k] for k in common], [other[k] for k in common])
        if len(first.members) > 1 and len(second.members) > 1:
            return unpaired_repeats(_all(first, name), _all(second, name))
    except DataError:
        return None
    a, b = first.members[0].run.predictions, second.members[0].run.predictions
    if (
        a is None
        or b is None
        or a.labels is None
        or b.labels is None
        or not np.array_equal(a.labels, b.labels)
    ):
        return None
    if a.probabilities is None or b.probabilities is None:
        return None
    found = mcnemar(a.probabilities.argmax(axis=1) == a.labels, b.probabilities.argmax(axis=1) == b.labels)
    names = [group.members[0].run.record.name for group in (first, second)]
    single = len(first.members) == len(second.members) == 1
    return found if single else replace(found, method=f"{found.method}; {names[0]} and {names[1]} only")


def _all(group: Group, name: str) -> list[float]:
    metrics = [member.results.metrics.get(name, Metric(float("nan"))) for member in group.members]
    return [metric.value for metric in metrics if metric.defined]


def _values(group: Group, name: str) -> dict[int, float]:
    """Repeat -> value, for the members that say which repeat they are."""
    return {
        member.run.record.repeat: metric.value
        for member in group.members
        if member.run.record.repeat is not None
        and (metric := member.results.metrics.get(name))
        and metric.defined
    }


def test_table(contents: Sequence[Content]) -> Table | None:
    """The tests as a sortable table."""
    rows: list[Row] = []
    for row in tests(contents):
        gap = 100 * row["difference"] if row["metric"] in SHARES else row["difference"]
        cells = (
            Cell(row["second"], is_text=True),
            Cell(f"{gap:+.1f} points", gap),
            Cell(_p(row["p_holm"]), row["p_holm"]),
            Cell(row["method"], is_text=True),
        )
        rows.append(Row(row["first"], cells))
    if not rows:
        return None
    headings = ("experiment", "compared with", "difference in accuracy", "p, corrected (Holm)", "tested by")
    return Table(
        "The second experiment minus the first. p: how often chance alone gives a difference as large",
        headings,
        tuple(rows),
        True,
        frozenset({"compared with", "tested by"}),
    )


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
