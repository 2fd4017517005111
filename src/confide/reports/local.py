# SPDX-License-Identifier: Apache-2.0
"""Runs on images that were made private before training (local DP): what that promises, and how it looks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from confide.experiments.record import Run
from confide.privacy.guarantee import rounded_up
from confide.reports.samples import Picture, png_uri

SHOWN = 6
# Above this, odds of more than 10^8 to 1 are allowed: nothing that a reader would call protection.
_VOID = 20.0


@dataclass(frozen=True)
class LocalView:
    """What the page says about local DP.

    Attributes:
        lead: One sentence on what the promise is worth.
        lines: The statements of the perturbed set's own record.
        pairs: Pictures before and after; empty without the run on the unperturbed images.
        note: Where the pictures come from, or why there are none.
    """

    lead: str
    lines: tuple[str, ...]
    pairs: tuple[tuple[Picture, Picture], ...]
    note: str


def local_view(run: Run, original: Run | None, *, images: bool = True) -> LocalView | None:
    """The local-DP section of a page; None for a run on unperturbed images.

    Args:
        run: The run.
        original: A run on the same images before they were perturbed.
        images: Whether pictures may be shown.
    """
    stated = run.record.local_guarantee
    if stated is None:
        return None
    pairs = before_and_after(run, original) if images and original is not None else ()
    return LocalView(_lead(stated), tuple(str(line) for line in stated.get("text", ())), pairs, _note(pairs))


def _lead(stated: dict[str, Any]) -> str:
    if not stated.get("private", False):
        return (
            "The noise in the images came from a known seed and can be taken away again: nobody is protected."
        )
    whole = float(stated.get("epsilon_image") or math.inf)
    text = "Noise was put into every image before anything was trained. "
    text += f"For a whole image ε = {rounded_up(whole)}"
    if stated.get("delta"):
        text += f", δ = {stated['delta']:g}"
    text += ", by the mechanism's own bound, per image without its label."
    if whole > _VOID:
        text += (
            " An ε of this size promises nothing about whose image it is: only single pixels are hidden, and"
            " what a face or a lung looks like is not one pixel."
        )
    if stated.get("labels_in_clear", True):
        text += " The labels were stored as they are and are not protected at all."
    return text


def _note(pairs: tuple[tuple[Picture, Picture], ...]) -> str:
    if pairs:
        return "Left: as it was; right: as it was trained on. The left pictures are real and unprotected."
    return (
        "No pictures before and after: give the run on the unperturbed images too, and keep test images in "
        "both runs (evaluation: samples)."
    )


def shows_originals(run: Run, other: Run) -> bool:
    """Whether `other` saw the images of `run` before they were perturbed: same classes and test labels."""
    a, b = run.predictions, other.predictions
    return (
        run.record.local_guarantee is not None
        and other.record.local_guarantee is None
        and run.record.data.classes == other.record.data.classes
        and run.record.data.rows == other.record.data.rows
        and a is not None
        and b is not None
        and a.labels is not None
        and b.labels is not None
        and np.array_equal(a.labels, b.labels)
    )


def before_and_after(run: Run, original: Run) -> tuple[tuple[Picture, Picture], ...]:
    """Test images of both runs, of the same rows; none where they kept different ones."""
    a, b = original.predictions, run.predictions
    if a is None or b is None or a.samples is None or b.samples is None:
        return ()
    if a.sample_rows is None or b.sample_rows is None or a.samples.shape[1:] != b.samples.shape[1:]:
        return ()
    places = {int(row): i for i, row in enumerate(a.sample_rows)}
    both = [(places[int(row)], j) for j, row in enumerate(b.sample_rows) if int(row) in places]
    return tuple(
        (
            Picture(png_uri(a.samples[i]), "Test image before local DP"),
            Picture(png_uri(b.samples[j]), "The same image after local DP"),
        )
        for i, j in both[:SHOWN]
    )
