# SPDX-License-Identifier: Apache-2.0
"""How figures look: one drawing function serves the page (light, dark, print) and files of print quality.

A figure is a function of data and a palette. Drawn with `SCREEN` its colours are stand-ins that become CSS
variables, so that it follows the reader's theme; drawn with `PRINT` they are final.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Inches. Narrow on purpose: on a page 360 CSS pixels wide the 9 pt text is still 10 pixels high.
WIDTH = 4.4
HEIGHT = 3.1


@dataclass(frozen=True)
class Palette:
    """The colours of a figure by what they mean."""

    ink: str
    muted: str
    grid: str
    private: str
    twin: str
    baseline: str
    worse: str
    series3: str
    series4: str
    series5: str
    series6: str

    @property
    def series(self) -> tuple[str, ...]:
        """Colours of several runs side by side; markers differ too, for those who do not tell colours
        apart."""
        return (self.private, self.twin, self.series3, self.series4, self.series5, self.series6)


PRINT = Palette(
    ink="#1a1f24",
    muted="#55606b",
    grid="#d9dee3",
    private="#1f5fa8",
    twin="#b4540a",
    baseline="#6b7681",
    worse="#b3261e",
    series3="#2e7d4f",
    series4="#8a3f9e",
    series5="#9a7400",
    series6="#00727a",
)
# Stand-ins that nothing else uses; templates/style.css gives --ink and so on their light and dark values.
SCREEN = Palette(**{field.name: f"#0102{n:02x}" for n, field in enumerate(fields(Palette), start=1)})
MARKERS = ("o", "s", "^", "D", "v", "P")


@contextmanager
def drawing(palette: Palette, width: float = WIDTH, height: float = HEIGHT) -> Iterator[Figure]:
    """A figure in house style, without pyplot's global state."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    settings: dict[Any, Any] = {
        "font.size": 9,
        "font.family": ["DejaVu Sans"],
        "axes.edgecolor": palette.muted,
        "axes.labelcolor": palette.ink,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": palette.grid,
        "grid.linewidth": 0.6,
        "text.color": palette.ink,
        "xtick.color": palette.muted,
        "ytick.color": palette.muted,
        "xtick.labelcolor": palette.ink,
        "ytick.labelcolor": palette.ink,
        "legend.frameon": False,
        "lines.linewidth": 1.8,
    }
    with mpl.rc_context(settings):
        yield Figure(figsize=(width, height), layout="constrained")


def _svg(figure: Figure, *, as_text: bool) -> str:
    import matplotlib as mpl

    file = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none" if as_text else "path", "svg.hashsalt": "confide"}):
        # No date: the same run gives the same page.
        figure.savefig(file, format="svg", transparent=as_text, metadata={"Date": None, "Creator": "confide"})
    return file.getvalue()


def inline_svg(figure: Figure, name: str, title: str, description: str) -> str:
    """The figure as an `<svg>` element for the page, its colours as CSS variables.

    Args:
        figure: Drawn with the palette `SCREEN`.
        name: Prefix of every id, unique on the page.
        title: Accessible name.
        description: What the figure shows, for those who do not see it.
    """
    text = _svg(figure, as_text=True)
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r'(xlink:href="#|url\(#)', rf"\1{name}-", text)
    # The page's own font; matplotlib's `font: 9px 'DejaVu Sans'` names one that a reader may not have.
    text = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", text)
    for field in fields(Palette):
        text = text.replace(getattr(SCREEN, field.name), f"var(--{field.name})")
    box = re.search(r'viewBox="[^"]+"', text)
    body = text[text.index(">") + 1 :]
    head = (
        f'<svg {box.group() if box else ""} role="img" aria-labelledby="{name}-title {name}-desc" '
        'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">'
        f'<title id="{name}-title">{escape(title)}</title><desc id="{name}-desc">{escape(description)}</desc>'
    )
    return head + body


def save(figure: Figure, path: Path) -> Path:
    """Write a figure drawn with `PRINT`, as SVG or as PNG at 300 dpi, by the suffix of the path."""
    if path.suffix == ".svg":
        path.write_text(_svg(figure, as_text=False), encoding="utf-8")
    else:
        figure.savefig(path, dpi=300, facecolor="white")
    return path
