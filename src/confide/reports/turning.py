# SPDX-License-Identifier: Apache-2.0
"""The section of a report on turned images: sentences and figures for a steerable network."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from confide.reports import style, tables
from confide.reports.content import Content
from confide.reports.plots import Plot
from confide.reports.style import PRINT, Palette
from confide.reports.symmetry import Symmetry, Turn

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ROUNDING = 1e-3  # of the scores: below it a reader need not know more


def symmetry_view(content: Content) -> dict[str, Any] | None:
    """What the template shows; None for an ordinary network."""
    found = content.symmetry
    if found is None:
        return None
    return {
        "lead": lead(found),
        "figures": [plot.shown() for plot in plots(found)],
        "note": (
            f"Measured with the finished model on a drawn picture of {found.side}×{found.side} pixels: no "
            "patient's image was used, so the guarantee is not touched. It shows how the network treats a "
            "turned image, not whether it is right about it."
        ),
    }


def lead(found: Symmetry) -> str:
    """What is promised and what was found, in words."""
    what, it = _what(found), "a label map that turns with it" if found.maps else "the same answer"
    said = [f"This network is built to give {it} when an image is {found.words} (group {found.group})."]
    if not found.words:
        said = [f"This network's group {found.group} has no turns: nothing is promised."]
    if exact := [t for t in found.turns if t.exact]:
        worst = max(t.change for t in exact)
        end = "its grid of pixels breaks the promise" if worst >= _ROUNDING else "rounding"
        said.append(f"{_exact_words(exact)} a drawn picture changes {what} by {_share(worst)}: {end}.")
    if between := [t.change for t in found.turns if t.promised and t.angle % 90]:
        said.append(
            f"The promised angles in between change {what} by up to {_share(max(between))}: a square grid of "
            "pixels cannot follow them exactly."
        )
    if others := [t.change for t in found.turns if not t.promised]:
        said.append(f"Other angles are not promised: they change {what} by up to {_share(max(others))}.")
    return " ".join(said)


def _exact_words(exact: list[Turn]) -> str:
    angles = {t.angle for t in exact if not t.mirrored}
    turning = ["turning by quarters"] if 90 in angles else ["turning by half"] if 180 in angles else []
    return " or ".join([*turning, *(["mirroring"] if any(t.mirrored for t in exact) else [])]).capitalize()


def plots(found: Symmetry) -> list[Plot]:
    """The change by angle, and the learned filters."""
    what = _what(found)
    turned = [t for t in found.turns if not t.mirrored]
    mirrored = [t for t in found.turns if t.mirrored]
    columns = [[t.angle for t in turned], [100 * t.change for t in turned]]
    if mirrored:
        columns.append([100 * t.change for t in mirrored])
    headings = ("angle, °", "turned, %", "mirrored and turned, %")[: len(columns)]
    top = max(turned, key=lambda t: t.change)
    promised = ", ".join(f"{t.angle:g}°" for t in turned if t.promised)
    copies = (
        "Each row is one filter that training found, the columns its turned copies, which share its "
        "parameters"
        if found.labels
        else "Each row is one filter that training found, the columns the channels that turning mixes"
    )
    return [
        Plot(
            "change-by-angle",
            "Change under every turn",
            f"Change of {what} in percent of their size, for a drawn picture turned counter-clockwise. Full "
            "dots: turns that the network promises to follow.",
            f"Line: largest change {_share(top.change)} at {top.angle:g}°; promised turns: {promised}.",
            partial(draw_changes, found),
            tables.numbers(f"Change of {what} by angle", headings, columns),
        ),
        Plot(
            "learned-filters",
            "Filters of the first layer",
            f"{copies}. Red adds, blue subtracts; averaged over the image's channels.",
            f"{len(found.filters)} filters in {found.filters.shape[1]} copies each.",
            partial(draw_filters, found),
        ),
    ]


def draw_changes(found: Symmetry, *, palette: Palette = PRINT) -> Figure:
    """The change against the angle, a line for turned and one for mirrored pictures."""
    with style.drawing(palette) as figure:
        axes = figure.subplots()
        for mirrored, colour, marker, label in (
            (False, palette.private, "o", "turned"),
            (True, palette.twin, "s", "mirrored, then turned"),
        ):
            line = [t for t in found.turns if t.mirrored == mirrored]
            if not line:
                continue
            angles, changes = [t.angle for t in line], [100 * t.change for t in line]
            axes.plot(angles, changes, color=colour, linewidth=1, label=label)
            kept = [(a, c) for a, c, t in zip(angles, changes, line, strict=True) if t.promised]
            axes.plot([a for a, _ in kept], [c for _, c in kept], marker, color=colour, markersize=5)
        axes.set(xlabel="angle of the turn, degrees", ylabel=f"change of {_what(found)}, %")
        axes.set_xticks(range(0, 361, 45))
        axes.set_ylim(bottom=0)
        if any(t.mirrored for t in found.turns):
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, fontsize=8.5, borderaxespad=0.2)
    return figure


def draw_filters(found: Symmetry, *, palette: Palette = PRINT) -> Figure:
    """A mosaic of filters: a row for each, its copies side by side, every row on a scale of its own."""
    rows, copies, side, _ = found.filters.shape
    cell = side + 1
    mosaic = np.full((rows * cell - 1, copies * cell - 1), np.nan)
    for i, j in np.ndindex(rows, copies):
        scaled = found.filters[i, j] / max(float(np.abs(found.filters[i]).max()), 1e-12)
        mosaic[i * cell : i * cell + side, j * cell : j * cell + side] = scaled
    with style.drawing(palette, height=0.6 + style.WIDTH * 0.9 * rows / max(copies, 6)) as figure:
        axes = figure.subplots()
        # Cells as shapes: sharp at every size, where an embedded image of a few pixels would blur.
        axes.pcolormesh(np.ma.masked_invalid(mosaic), cmap="RdBu_r", vmin=-1, vmax=1)
        axes.invert_yaxis()
        axes.set_aspect("equal")
        axes.grid(False)
        for spine in axes.spines.values():
            spine.set_visible(False)
        labels = found.labels or tuple(str(j + 1) for j in range(copies))
        axes.set_xticks([j * cell + side / 2 for j in range(copies)], labels)
        axes.set_yticks([i * cell + side / 2 for i in range(rows)], [str(i + 1) for i in range(rows)])
        axes.set(xlabel="orientation" if found.labels else "channel", ylabel="filter")
        axes.tick_params(length=0)
    return figure


def _what(found: Symmetry) -> str:
    return "the label scores" if found.maps else "the scores"


def _share(change: float) -> str:
    """A share of the scores' size; far below what a reader cares for, only that it is."""
    return "less than 0.1%" if change < _ROUNDING else f"{100 * change:.{1 if change < 0.1 else 0}f}%"
