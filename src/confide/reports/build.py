# SPDX-License-Identifier: Apache-2.0
"""`write_report`: from run folders to a page, its JSON, a model card and, if asked, figure files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from confide.errors import RunError
from confide.experiments.record import Run, load_run
from confide.reports import turning
from confide.reports.card import FILE as CARD
from confide.reports.card import model_card
from confide.reports.content import Content, content_of
from confide.reports.html import render, write_text
from confide.reports.local import local_view, shows_originals
from confide.reports.plots import plots_of
from confide.reports.prediction import overlays_for
from confide.reports.samples import chosen, samples_of
from confide.reports.view import report_view

PAGE = "report.html"
DATA = "report.json"


@dataclass(frozen=True)
class Options:
    """What goes into a report.

    Attributes:
        images: Whether test images are shown.
        figures: Whether figure files (SVG, PNG) are written beside the page.
        made: Date in the footer; None leaves it out.
    """

    images: bool = True
    figures: bool = False
    made: datetime | None = field(default=None)


def write_report(
    folders: Sequence[str | Path], out: str | Path, options: Options | None = None
) -> list[Path]:
    """Write the report of one run, of a run and its non-private twin, or of several runs.

    Args:
        folders: Run folders.
        out: Folder to write into; made if absent.
        options: What goes in.

    Returns:
        The files written; the first is the page to open.

    Raises:
        RunError: If a run folder is damaged or foreign, or `out` cannot be written.
    """
    options = options or Options()
    out = Path(out)
    runs = [load_run(folder) for folder in folders]
    if not runs:
        raise RunError("no run folder was given")
    private = [run for run in runs if run.private]
    if len(runs) == 2:
        # A run on perturbed images, beside one on the images as they were.
        for main, other in (runs, runs[::-1]):
            if shows_originals(main, other) and (main.private or not other.private):
                return _single(content_of(main, other), out, options)
    if len(runs) == 1 or (len(runs) == 2 and len(private) == 1):
        main = private[0] if private else runs[0]
        twin = next((run for run in runs if run is not main and is_twin(main, run)), None)
        if twin is not None or len(runs) == 1:
            return _single(content_of(main, twin), out, options)
    from confide.reports.compare import write_comparison

    return write_comparison(runs, out, options)


def is_twin(run: Run, other: Run) -> bool:
    """Whether `other` is the same training without privacy: same data, classes and model."""
    a, b = run.record, other.record
    return (
        run.private
        and not other.private
        and a.data.fingerprint == b.data.fingerprint
        and a.data.classes == b.data.classes
        and a.model.name == b.model.name
        and a.model.options == b.model.options
    )


def _single(content: Content, out: Path, options: Options) -> list[Path]:
    page = write_page(content, out / PAGE, options)
    written = [page, write_text(out / DATA, json.dumps(summary(content), indent=1, allow_nan=False) + "\n")]
    written.append(write_text(out / CARD, model_card(content)))
    if options.figures:
        written += write_figures(content, out / "figures")
    return written


def write_page(content: Content, path: Path, options: Options) -> Path:
    """One page for one run."""
    overlays, why = None, ""
    places = chosen(content.run) if options.images else []
    if len(places) and content.run.record.data.task == "classification":
        assert content.run.predictions is not None and content.run.predictions.samples is not None
        overlays, why = overlays_for(content.run, content.run.predictions.samples[places])
    samples = samples_of(content.run, overlays) if options.images else []
    view = report_view(content, samples, saliency=overlays is not None, why_no_saliency=why)
    original = content.comparison.twin if content.comparison is not None else None
    view["local"] = local_view(content.run, original, images=options.images)
    return write_text(path, render("report.html", view, options.made))


def write_figures(content: Content, folder: Path) -> list[Path]:
    """Every figure of a run as SVG and as PNG of print quality.

    Raises:
        RunError: If the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        plots = plots_of(content)
        if content.symmetry is not None:
            plots += turning.plots(content.symmetry)
        return [path for plot in plots for path in plot.save(folder)]
    except OSError as error:
        raise RunError("cannot be written", where=str(folder), why=error.strerror or str(error)) from None


def summary(content: Content) -> dict[str, Any]:
    """What the page says, for machines: the record, and what was computed from the predictions."""
    results = content.results
    found: dict[str, Any] = {
        "record": json.loads(content.run.record.to_json()),
        "claim": None
        if content.claim is None
        else {
            "epsilon": content.claim.epsilon,
            "delta": content.claim.delta,
            "private": content.claim.private,
            "complete": content.claim.complete,
        },
        "recognised_of_100": content.recognition.people if content.recognition is not None else None,
        "majority_accuracy": content.majority,
        "metrics": {name: metric.to_dict() for name, metric in results.metrics.items()},
        "confusion_matrix": None if results.matrix is None else results.matrix.tolist(),
        "subgroups": [
            {
                "column": table.column,
                "groups": [
                    {
                        "name": group.name,
                        "units": group.units,
                        "metrics": {name: metric.to_dict() for name, metric in group.metrics.items()},
                    }
                    for group in table.groups
                ],
                "gaps": [
                    {
                        "metric": g.metric,
                        "best": g.best,
                        "worst": g.worst,
                        "difference": g.difference.to_dict(),
                    }
                    for g in table.gaps
                ],
            }
            for table in results.subgroups
        ],
        "symmetry": None if content.symmetry is None else content.symmetry.to_dict(),
        "notices": list(content.notices),
    }
    if content.comparison is not None:
        found["without_privacy"] = {
            "name": content.comparison.twin.record.name,
            "paired": content.comparison.paired,
            "differences": {
                name: metric.to_dict() for name, metric in content.comparison.differences.items()
            },
        }
    return found
