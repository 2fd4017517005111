# SPDX-License-Identifier: Apache-2.0
"""The figures of a report. Each is a function of plain data and a palette, and returns a matplotlib
figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from confide.evaluation.calibration import Reliability
from confide.reports.style import MARKERS, PRINT, Palette, drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Curve:
    """A metric along training: x is ε, an epoch or a step."""

    label: str
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True)
class Level:
    """A horizontal line: what something else reaches."""

    label: str
    value: float


def along_training(
    private: Curve | None,
    twin: Curve | Level | None,
    baseline: Level | None,
    *,
    xlabel: str,
    ylabel: str,
    palette: Palette = PRINT,
) -> Figure:
    """A metric along training, beside the non-private twin and the majority baseline."""
    with drawing(palette) as figure:
        axes = figure.subplots()
        if private is not None:
            axes.plot(
                private.x, private.y, color=palette.private, marker="o", markersize=3, label=private.label
            )
        if isinstance(twin, Curve):
            axes.plot(twin.x, twin.y, color=palette.twin, marker="s", markersize=3, label=twin.label)
        elif twin is not None:
            axes.axhline(twin.value, color=palette.twin, linestyle=(0, (6, 2)), label=twin.label)
        if baseline is not None:
            axes.axhline(baseline.value, color=palette.baseline, linestyle=(0, (2, 2)), label=baseline.label)
        axes.set(xlabel=xlabel, ylabel=ylabel)
        axes.set_xlim(left=0)
        _legend_above(axes)
    return figure


def loss(curve: Curve, *, private: bool, palette: Palette = PRINT) -> Figure:
    """The training loss: what was released as dots, and its running mean, so that noise does not hide the
    course."""
    with drawing(palette) as figure:
        axes = figure.subplots()
        y = np.asarray(curve.y)
        colour = palette.private if private else palette.twin
        # Rasterising thousands of dots keeps the page small; vector text stays sharp.
        axes.plot(
            curve.x,
            y,
            ".",
            color=colour,
            markersize=2,
            alpha=0.45,
            label=curve.label,
            rasterized=len(y) > 500,
        )
        width = max(1, len(y) // 20)
        if width > 1:
            mean = np.convolve(y, np.ones(width) / width, mode="valid")
            axes.plot(np.asarray(curve.x)[width - 1 :], mean, color=colour, label=f"mean of {width} steps")
        # A noised loss has outliers; the scale follows the bulk.
        low, high = np.quantile(y, [0.005, 0.995])
        margin = 0.08 * (high - low) or 0.1
        axes.set(xlabel="epochs", ylabel="loss", ylim=(low - margin, high + margin))
        axes.set_xlim(left=0)
        _legend_above(axes, scale=3)
    return figure


def histogram(
    edges: Sequence[float], counts: Sequence[int], *, xlabel: str, ylabel: str, palette: Palette = PRINT
) -> Figure:
    """Counts between edges."""
    with drawing(palette) as figure:
        axes = figure.subplots()
        axes.stairs(counts, edges, color=palette.private, fill=True)
        axes.set(xlabel=xlabel, ylabel=ylabel)
        axes.set_ylim(bottom=0)
    return figure


def reliability_diagram(points: Reliability, *, palette: Palette = PRINT) -> Figure:
    """Stated probability against how often it came true; the area of a dot is its share of the images."""
    with drawing(palette, height=3.4) as figure:
        axes = figure.subplots()
        axes.plot(
            [0, 1], [0, 1], color=palette.baseline, linestyle=(0, (2, 2)), linewidth=1.2, label="perfect"
        )
        share = points.count / max(1, points.count.sum())
        for x, y in zip(points.confidence, points.accuracy, strict=True):
            axes.plot([x, x], [x, y], color=palette.worse, linewidth=1)
        axes.plot(points.confidence, points.accuracy, color=palette.private, linewidth=1)
        axes.scatter(
            points.confidence,
            points.accuracy,
            s=12 + 300 * share,
            color=palette.private,
            label="this model",
            zorder=3,
        )
        axes.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="stated probability", ylabel="share that was right")
        _legend_above(axes, scale=0.6)
    return figure


def confusion(matrix: NDArray[np.int64], classes: Sequence[str], *, palette: Palette = PRINT) -> Figure:
    """The confusion matrix as counts, shaded by the share of each true class. For print; the page has a
    table."""
    from matplotlib.colors import LinearSegmentedColormap

    size = 1.6 + 0.45 * len(classes)
    with drawing(palette, width=size + 0.6, height=size) as figure:
        axes = figure.subplots()
        share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
        shade = LinearSegmentedColormap.from_list("share", ["#ffffff", palette.private])
        axes.imshow(share, cmap=shade, vmin=0, vmax=1)
        for i, j in np.ndindex(matrix.shape):
            colour = "#ffffff" if share[i, j] > 0.55 else palette.ink
            axes.text(j, i, str(matrix[i, j]), ha="center", va="center", color=colour, fontsize=8)
        ticks = range(len(classes))
        axes.set_xticks(ticks, labels=list(classes), rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(ticks, labels=list(classes))
        axes.set(xlabel="predicted", ylabel="true")
        axes.grid(False)
    return figure


@dataclass(frozen=True)
class Interval:
    """A value with its interval, for one line of a forest plot or one point of a frontier."""

    label: str
    value: float
    low: float
    high: float
    x: float | None = None


def forest(rows: Sequence[Interval], *, xlabel: str, palette: Palette = PRINT) -> Figure:
    """Values with intervals, a line each: subgroups or classes below each other."""
    with drawing(palette, height=1.0 + 0.27 * len(rows)) as figure:
        axes = figure.subplots()
        height = np.arange(len(rows))[::-1]
        for y, row in zip(height, rows, strict=True):
            axes.plot([row.low, row.high], [y, y], color=palette.private, linewidth=2)
            axes.plot(row.value, y, "o", color=palette.private, markersize=5)
        axes.set_yticks(height, labels=[row.label for row in rows])
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.set_xlabel(xlabel)
        axes.grid(False, axis="y")
    return figure


def frontier(
    groups: Sequence[tuple[str, Sequence[Interval]]],
    twins: Sequence[Interval],
    baseline: Level | None,
    *,
    ylabel: str,
    palette: Palette = PRINT,
) -> Figure:
    """Privacy against utility: ε on a logarithmic axis, non-private runs at ∞ on the right.

    Args:
        groups: (label, points) with `x` = ε.
        twins: Runs without DP.
        baseline: The majority class.
        ylabel: The metric.
        palette: Colours.
    """
    with drawing(palette, height=3.3) as figure:
        axes = figure.subplots()
        axes.set_xscale("log")
        every = [point.x for _, points in groups for point in points if point.x]
        right = 4 * max(every, default=1.0)
        styles = zip(palette.series * len(groups), MARKERS * len(groups), groups, strict=False)
        for colour, marker, (label, points) in styles:
            _points(axes, points, [point.x or np.nan for point in points], colour, marker, label)
        if twins:
            _points(axes, twins, [right] * len(twins), palette.twin, "X", "without DP")
        if baseline is not None:
            axes.axhline(baseline.value, color=palette.baseline, linestyle=(0, (2, 2)), label=baseline.label)
        ticks = _nice_ticks(every)
        labels = [f"{tick:g}" for tick in ticks]
        if twins:
            ticks, labels = [*ticks, right], [*labels, "∞"]
        axes.set_xticks(ticks, labels=labels)
        axes.minorticks_off()
        axes.set_xlim(min(every, default=1.0) / 1.6, right * 1.5)
        axes.set(xlabel="privacy loss ε (smaller protects more)", ylabel=ylabel)
        _legend_above(axes)
    return figure


def _points(
    axes: Axes, points: Sequence[Interval], x: Sequence[float], colour: str, marker: str, label: str
) -> None:
    y = np.array([point.value for point in points])
    spread = np.array([[point.value - point.low, point.high - point.value] for point in points]).T
    axes.errorbar(
        x,
        y,
        yerr=np.nan_to_num(spread.clip(min=0)),
        color=colour,
        marker=marker,
        markersize=5,
        linestyle="none",
        elinewidth=1,
        label=label,
    )


def _nice_ticks(values: Sequence[float]) -> list[float]:
    """1-2-5 ticks that span the values."""
    if not values:
        return [1.0]
    low, high = min(values) / 1.3, max(values) * 1.3
    ticks = [m * 10.0**e for e in range(-4, 6) for m in (1, 2, 5)]
    return [tick for tick in ticks if low <= tick <= high] or [max(values)]


def _legend_above(axes: Axes, scale: float = 1.0) -> None:
    """The legend over the axes, where it hides nothing."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        columns = 1 if max(map(len, labels)) > 26 else 2
        axes.legend(
            handles,
            labels,
            loc="lower left",
            bbox_to_anchor=(0, 1.0),
            ncols=columns,
            fontsize=8.5,
            borderaxespad=0.2,
            handlelength=1.8,
            columnspacing=1.2,
            markerscale=scale,
        )
