# SPDX-License-Identifier: Apache-2.0
"""Sample images of the test set with what the model says about them, and where it looked."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from confide.experiments.record import Run

SHOWN = 12


@dataclass(frozen=True)
class Picture:
    """An image as a data URI, with its alternative text."""

    uri: str
    alt: str


@dataclass(frozen=True)
class Sample:
    """One test image."""

    images: tuple[Picture, ...]
    verdict: str
    text: str
    share: float | None
    wrong: bool


def png_uri(image: NDArray[np.uint8]) -> str:
    """(H, W), (H, W, 1) or (H, W, 3) uint8 as a data URI, at its own resolution."""
    from PIL import Image

    file = io.BytesIO()
    squeezed = image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image
    Image.fromarray(np.ascontiguousarray(squeezed)).save(file, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def chosen(run: Run) -> NDArray[np.int64]:
    """Which stored samples are shown: wrong and right answers of every class, as evenly as there are."""
    predictions = run.predictions
    if predictions is None or predictions.samples is None or predictions.sample_rows is None:
        return np.empty(0, np.int64)
    if predictions.labels is None or predictions.probabilities is None:
        return np.arange(min(SHOWN, len(predictions.samples)))
    labels = predictions.labels[predictions.sample_rows]
    right = predictions.probabilities[predictions.sample_rows].argmax(axis=1) == labels
    kinds: dict[tuple[int, bool], list[int]] = {}
    for i, kind in enumerate(zip(labels.tolist(), right.tolist(), strict=True)):
        kinds.setdefault(kind, []).append(i)
    order: list[int] = []
    while len(order) < min(SHOWN, len(labels)):
        order += [rows.pop(0) for _, rows in sorted(kinds.items()) if rows]
    return np.array(order[:SHOWN], dtype=np.int64)


def samples_of(run: Run, overlays: NDArray[np.uint8] | None = None) -> list[Sample]:
    """The samples of a classification run.

    Args:
        run: The run.
        overlays: (n, H, W, 3) saliency drawn over the chosen samples, in the order of `chosen`.
    """
    predictions = run.predictions
    if predictions is None or predictions.samples is None or predictions.sample_rows is None:
        return []
    if predictions.labels is None or predictions.probabilities is None:
        return _masks(run)
    classes = run.record.data.classes
    found: list[Sample] = []
    for place, i in enumerate(chosen(run)):
        row = predictions.sample_rows[i]
        scores = predictions.probabilities[row]
        guess, truth = int(scores.argmax()), int(predictions.labels[row])
        wrong = guess != truth
        images = [Picture(png_uri(predictions.samples[i]), f"Test image, true class {classes[truth]}")]
        if overlays is not None:
            images.append(
                Picture(png_uri(overlays[place]), f"Where the model looked when it said {classes[guess]}")
            )
        share = 100 * float(scores[guess])
        verdict = f"{'Wrong' if wrong else 'Right'}: {classes[guess]}"
        text = f"stated with {share:.0f}%" + (f"; true class: {classes[truth]}" if wrong else "")
        found.append(Sample(tuple(images), verdict, text, round(share, 1), wrong))
    return found


def _masks(run: Run) -> list[Sample]:
    """Segmentation: the image with the true and the predicted outline."""
    predictions: Any = run.predictions
    if predictions.sample_targets is None or predictions.sample_predictions is None:
        return []
    found: list[Sample] = []
    for i in chosen(run):
        target, guess = predictions.sample_targets[i] > 0, predictions.sample_predictions[i] > 0
        image = predictions.samples[i]
        row = int(predictions.sample_rows[i])
        images = (
            Picture(png_uri(outlined(image, target, (90, 200, 120))), "Test image with the true outline"),
            Picture(png_uri(outlined(image, guess, (255, 170, 60))), "Test image with the predicted outline"),
        )
        score = float(predictions.scores["dice"][row]) if "dice" in predictions.scores else float("nan")
        text = "left: true outline; right: predicted"
        found.append(Sample(images, f"Dice {score:.2f}", text, None, False))
    return found


def outlined(
    image: NDArray[np.uint8], mask: NDArray[np.bool_], colour: tuple[int, int, int]
) -> NDArray[np.uint8]:
    """The image in colour with the boundary of the mask drawn on it."""
    from scipy.ndimage import binary_erosion

    grey = image if image.shape[2] == 3 else np.repeat(image[..., :1], 3, axis=2)
    drawn = grey.copy()
    drawn[mask & ~np.asarray(binary_erosion(mask), dtype=np.bool_)] = colour
    return drawn
