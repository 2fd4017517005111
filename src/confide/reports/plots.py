# SPDX-License-Identifier: Apache-2.0
"""Which figures a run has: drawn for the page with captions, descriptions and the numbers behind them, or as
files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from markupsafe import Markup

from confide.evaluation.groups import SubgroupTable
from confide.experiments.history import History
from confide.reports import figures, style, tables
from confide.reports.content import Content
from confide.reports.figures import Curve, Interval, Level
from confide.reports.tables import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Draw = Callable[..., "Figure"]


@dataclass(frozen=True)
class Plot:
    """A figure before it is drawn: `draw(palette=...)` gives the drawing."""

    name: str
    title: str
    caption: str
    description: str
    draw: Draw
    table: Table | None = None

    def shown(self) -> Shown:
        """Drawn for the page."""
        drawn = self.draw(palette=style.SCREEN)
        svg = style.inline_svg(drawn, self.name, self.title, self.description)
        return Shown(self.name, self.title, self.caption, Markup(svg), self.table)

    def save(self, folder: Path) -> list[Path]:
        """Drawn for print, as SVG and as PNG at 300 dpi."""
        return [
            style.save(self.draw(palette=style.PRINT), folder / f"{self.name}{suffix}")
            for suffix in (".svg", ".png")
        ]


@dataclass(frozen=True)
class Shown:
    """A figure on the page."""

    name: str
    title: str
    caption: str
    svg: Markup
    table: Table | None


def plots_of(content: Content) -> list[Plot]:
    """Every figure that this run can have, in the order of the page."""
    plots = [*curves(content), *inside(content)]
    if content.results.calibration is not None:
        plots.append(reliability(content))
    if content.results.matrix is not None:
        classes = content.run.record.data.classes
        plots.append(
            Plot(
                "confusion-matrix",
                "What was taken for what",
                "Counts of test images; the shade is the share of the true class.",
                "Confusion matrix.",
                partial(figures.confusion, content.results.matrix, classes),
            )
        )
    plots += [plot for table in content.results.subgroups if (plot := subgroup(table)) is not None]
    return plots


def curves(content: Content) -> list[Plot]:
    """Accuracy against ε and against epochs, as far as the history holds them."""
    found = [accuracy_by_epsilon(content), accuracy_by_epoch(content)]
    return [plot for plot in found if plot is not None]


def _metric(content: Content) -> tuple[str, str]:
    """The metric of the curves: (key, title)."""
    if content.run.record.data.task == "segmentation":
        return "dice", "Dice"
    return "accuracy", "accuracy"


def _levels(content: Content, split: str) -> tuple[Level | None, Level | None]:
    """Final value of the twin on this split, and the majority baseline."""
    key, _ = _metric(content)
    twin = None
    if content.comparison is not None:
        ends = content.comparison.twin.history.curve(key, split)
        if ends:
            twin = Level("without privacy, at its end", ends[-1][1])
    share = content.majority if key == "accuracy" else None
    return twin, None if share is None else Level("always the most frequent class", share)


def _split(history: History, key: str) -> str:
    """The split whose curve is shown: validation where there is one."""
    splits = [line.split for line in history.evaluations if key in line.metrics]
    return "validation" if "validation" in splits or not splits else splits[0]


def accuracy_by_epsilon(content: Content) -> Plot | None:
    """What each further bit of privacy loss bought."""
    key, title = _metric(content)
    split = _split(content.run.history, key)
    points = [
        (line.epsilon, value)
        for line, value in content.run.history.curve(key, split)
        if line.epsilon is not None
    ]
    if len(points) < 2:
        return None
    x, y = [p[0] for p in points], [p[1] for p in points]
    twin, baseline = _levels(content, split)
    beside = "" if twin is None else f" Without privacy it ends at {twin.value:.3f}."
    under = "" if baseline is None else f" The most frequent class alone gives {baseline.value:.3f}."
    return Plot(
        "accuracy-by-epsilon",
        f"{title.capitalize()} while privacy is spent",
        f"On the {split} images, against the privacy loss ε spent until then.{_how_twin(content)}",
        f"Line: {title} rises from {y[0]:.3f} at ε {x[0]:.2f} to {y[-1]:.3f} at ε "
        f"{x[-1]:.2f}.{beside}{under}",
        partial(
            figures.along_training,
            Curve("with privacy", x, y),
            twin,
            baseline,
            xlabel="privacy loss ε spent so far",
            ylabel=title,
        ),
        tables.numbers(f"{title.capitalize()} by ε", ("ε", title), (x, y)),
    )


def _how_twin(content: Content) -> str:
    if content.comparison is None:
        return " No run without privacy was given to compare with."
    return ""


def accuracy_by_epoch(content: Content) -> Plot | None:
    """Both runs along training."""
    key, title = _metric(content)
    split = _split(content.run.history, key)
    own = [(line.epoch, value) for line, value in content.run.history.curve(key, split)]
    if len(own) < 2:
        return None
    x, y = [p[0] for p in own], [p[1] for p in own]
    label = "with privacy" if content.claim is not None else "this run, without privacy"
    other: Curve | None = None
    if content.comparison is not None:
        ends = [(line.epoch, value) for line, value in content.comparison.twin.history.curve(key, split)]
        other = Curve("without privacy", [p[0] for p in ends], [p[1] for p in ends]) if ends else None
    _, baseline = _levels(content, split)
    compared = "" if other is None else f" Without privacy it ends at {other.y[-1]:.3f}."
    return Plot(
        "accuracy-by-epoch",
        f"{title.capitalize()} by epoch",
        f"On the {split} images, after each evaluation.",
        f"Line: {title} goes from {y[0]:.3f} to {y[-1]:.3f} after {x[-1]:.3g} epochs.{compared}",
        partial(
            figures.along_training,
            Curve(label, x, y) if content.claim is not None else None,
            other if content.claim is not None else Curve(label, x, y),
            baseline,
            xlabel="epochs",
            ylabel=title,
        ),
        tables.numbers(f"{title.capitalize()} by epoch", ("epoch", title), (x, y)),
    )


def loss_by_epoch(content: Content) -> Plot | None:
    """The training loss as it was released."""
    steps = [(line.epoch, line.loss) for line in content.run.history.steps if line.loss is not None]
    if len(steps) < 2:
        return None
    x, y = [p[0] for p in steps], [p[1] for p in steps]
    private = content.claim is not None
    said = (
        "Mean over a batch, released with noise that the guarantee accounts for: the scatter is that noise."
        if private
        else "Mean over a batch."
    )
    curve = Curve("loss of a step", x, y)
    return Plot(
        "training-loss",
        "Training loss",
        said,
        f"Line: the loss goes from {y[0]:.3g} to {y[-1]:.3g} over {x[-1]:.3g} epochs.",
        partial(figures.loss, curve, private=private),
        tables.numbers("Training loss by epoch", ("epoch", "loss"), (x, y)),
    )


def reliability(content: Content) -> Plot:
    """The reliability diagram."""
    points = content.results.calibration
    assert points is not None
    over = float(((points.confidence - points.accuracy) * points.count).sum() / max(1, points.count.sum()))
    which = "more sure than it is right" if over > 0 else "less sure than it is right"
    size = abs(100 * over)
    tendency = (
        f"On average it is {size:.0f} point{'' if round(size) == 1 else 's'} {which}."
        if size >= 1
        else "On average it is as sure as it is right."
    )
    return Plot(
        "reliability",
        "Does a stated probability come true?",
        f"On the dashed line an answer given with 80% is right 8 times in 10. {tendency} The area of a dot "
        "is its share of the test images.",
        f"Reliability diagram with {len(points.count)} bins. {tendency}",
        partial(figures.reliability_diagram, points),
        tables.numbers(
            "Reliability",
            ("stated", "right", "images"),
            (points.confidence.tolist(), points.accuracy.tolist(), points.count.tolist()),
        ),
    )


def subgroup(table: SubgroupTable) -> Plot | None:
    """Balanced accuracy, or accuracy, of every large enough group."""
    large = [group for group in table.groups if not group.too_small]
    if len(large) < 2:
        return None
    rows = [
        Interval(f"{g.name} ({g.units})", 100 * m.value, 100 * m.low, 100 * m.high)
        for g in large
        if (m := g.metrics["balanced_accuracy"]).defined
    ]
    if len(rows) < 2:
        return None
    worst = min(rows, key=lambda row: row.value)
    return Plot(
        f"subgroup-{_slug(table.column)}",
        f"Balanced accuracy by {table.column}",
        "Dot: value; line: 95% interval; in brackets: units in the test set.",
        f"Balanced accuracy of {len(rows)} groups; the lowest is {worst.label} with {worst.value:.1f}%.",
        partial(figures.forest, rows, xlabel="balanced accuracy, %"),
    )


def _slug(text: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in text.lower())


def inside(content: Content) -> list[Plot]:
    """The training loss, and diagnostics of gradients where the run recorded them."""
    loss = loss_by_epoch(content)
    return [*([loss] if loss is not None else []), *diagnostics(content.run.history)]


def diagnostics(history: History) -> list[Plot]:
    """Gradient sparsity, clipped share and norms, where the run recorded them."""
    plots: list[Plot] = []
    lines = history.diagnostics
    for name, title, pick, ylabel in (
        ("gradient-sparsity", "Gradient sparsity", "sparsity", "share of entries below 10⁻⁵"),
        ("clip-fraction", "Clipped gradients", "clip_fraction", "share of units clipped"),
    ):
        points = [(line.epoch, getattr(line, pick)) for line in lines if getattr(line, pick) is not None]
        if len(points) < 2:
            continue
        x, y = [p[0] for p in points], [p[1] for p in points]
        plots.append(
            Plot(
                name,
                title,
                f"{ylabel[0].upper()}{ylabel[1:]}, along training.",
                f"Line: from {y[0]:.3f} to {y[-1]:.3f}.",
                partial(
                    figures.along_training,
                    Curve("this run", x, y),
                    None,
                    None,
                    xlabel="epochs",
                    ylabel=ylabel,
                ),
                tables.numbers(title, ("epoch", ylabel), (x, y)),
            )
        )
    norms = [(line, line.norm_edges, line.norm_counts) for line in lines]
    if norms and (last := norms[-1][0]) and (edges := norms[-1][1]) and (counts := norms[-1][2]):
        plots.append(
            Plot(
                "gradient-norms",
                "Gradient norms",
                f"Norm of each unit's gradient before clipping, at step {last.step:,}.",
                "Histogram of gradient norms.",
                partial(figures.histogram, edges, counts, xlabel="norm", ylabel="units"),
            )
        )
    return plots
