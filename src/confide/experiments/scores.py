# SPDX-License-Identifier: Apache-2.0
"""Scores of a model on held-out images, during training and at its end.

Validation and test images are not protected by the training's guarantee; that their scores are computed is
declared public in every record.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from confide.data.imageset import ImageSet
from confide.evaluation.bootstrap import Bootstrap, Metric
from confide.evaluation.calibration import fit_temperature
from confide.evaluation.metrics import classification_metrics
from confide.evaluation.segmentation import segmentation_scores, summarise
from confide.experiments.predictions import MOST_SAMPLES, Predictions
from confide.experiments.record import Measured
from confide.training.scoring import scores


@dataclass(frozen=True)
class Scored:
    """What a model says about one split, and how right it is.

    Attributes:
        metrics: name -> value with its interval.
        probabilities: (N, K) of a classification task.
        labels: (N,) of a classification task.
        per_image: name -> (N,) of a segmentation task.
        logits: (N, K) raw scores of a classification task.
        masks: (n, H, W) predicted masks of `sampled` rows of a segmentation task.
    """

    metrics: dict[str, Metric]
    probabilities: NDArray[np.float32] | None = None
    labels: NDArray[np.int64] | None = None
    per_image: dict[str, NDArray[np.float64]] | None = None
    logits: NDArray[np.float32] | None = None
    masks: NDArray[np.uint8] | None = None

    def values(self) -> dict[str, float | None]:
        """name -> value, None where undefined: a line of `metrics.jsonl`."""
        return {name: m.value if m.defined else None for name, m in self.metrics.items()}

    def measured(self) -> dict[str, Measured]:
        """The metrics as `run.json` holds them."""
        return {name: Measured.model_validate(m.to_dict()) for name, m in self.metrics.items()}


def score(
    model: nn.Module,
    images: ImageSet,
    *,
    batch_size: int = 512,
    bootstrap: Bootstrap | None = None,
    sampled: NDArray[np.int64] | None = None,
) -> Scored:
    """Score a model on a split, in evaluation mode.

    Args:
        model: (B, C, ...) images to (B, K, ...) scores.
        images: The split; not empty.
        batch_size: Images at once; changes memory only.
        bootstrap: How intervals over privacy units are made; None leaves them out.
        sampled: Rows whose predicted masks are kept (segmentation).
    """
    if images.info.task == "segmentation":
        return _segmentation(model, images, batch_size, bootstrap, sampled)
    parts = [(given.numpy(), wanted.numpy()) for given, wanted in scores(model, images, batch_size)]
    logits, labels = np.concatenate([p for p, _ in parts]), np.concatenate([t for _, t in parts])
    # A diverged model says nothing about any class; NaN would end a run whose budget is already spent.
    logits = np.nan_to_num(logits, nan=0.0, posinf=1e30, neginf=-1e30)
    probabilities = torch.softmax(torch.from_numpy(logits), 1).numpy()
    metrics = classification_metrics(probabilities, labels, images.info.classes, images.unit_index, bootstrap)
    return Scored(metrics, probabilities, labels, logits=logits)


def _segmentation(
    model: nn.Module,
    images: ImageSet,
    batch_size: int,
    bootstrap: Bootstrap | None,
    sampled: NDArray[np.int64] | None,
) -> Scored:
    parts: list[dict[str, NDArray[np.float64]]] = []
    masks: list[NDArray[np.uint8]] = []
    start = 0
    for given, wanted in scores(model, images, batch_size):
        predicted = given.argmax(1)
        parts.append(_mask_scores(predicted, wanted, given.shape[1]))
        if sampled is not None:
            here = sampled[(sampled >= start) & (sampled < start + len(given))] - start
            masks.append(predicted.numpy()[here].astype(np.uint8))
        start += len(given)
    per_image = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return Scored(
        summarise(per_image, images.unit_index, bootstrap),
        per_image=per_image,
        masks=np.concatenate(masks) if masks else None,
    )


def _mask_scores(predicted: Tensor, wanted: Tensor, classes: int) -> dict[str, NDArray[np.float64]]:
    """Per-image scores: of each foreground class (B, H, W), averaged where defined. Slices of a volume count
    as images of their own.
    """
    flat = [mask.numpy().reshape(len(mask), -1, mask.shape[-1]) for mask in (predicted, wanted)]
    each = [segmentation_scores(flat[0] == k, flat[1] == k) for k in range(1, classes)]
    found: dict[str, NDArray[np.float64]] = {}
    for name in each[0]:
        values = np.stack([scored[name] for scored in each])
        known = ~np.isnan(values)
        total = np.where(known, values, 0.0).sum(0)
        found[name] = np.divide(total, known.sum(0), out=np.full(len(total), np.nan), where=known.any(0))
    return found


def sample_rows(images: ImageSet, wanted: int) -> NDArray[np.int64]:
    """Rows of a split to show: evenly spaced, the same for every run on it."""
    count = min(wanted, MOST_SAMPLES, len(images))
    return np.unique(np.linspace(0, len(images) - 1, count).round().astype(np.int64)) if count else _none()


def _none() -> NDArray[np.int64]:
    return np.empty(0, np.int64)


def predictions_of(scored: Scored, images: ImageSet, rows: NDArray[np.int64]) -> Predictions:
    """What goes into `predictions.npz`; `rows` are the test images that are kept in it."""
    shown: dict[str, Any] = {}
    if len(rows) and images.images.ndim == 4:
        shown = {"samples": _pixels(images, rows), "sample_rows": rows}
        if scored.per_image is not None:
            shown["sample_targets"] = np.asarray(images.targets[rows], dtype=np.uint8)
            shown["sample_predictions"] = scored.masks
    return Predictions(
        probabilities=scored.probabilities,
        labels=scored.labels,
        unit_index=images.unit_index,
        subgroups={name: np.asarray(values, dtype=np.str_) for name, values in images.columns.items()},
        scores=scored.per_image or {},
        **shown,
    )


def _pixels(images: ImageSet, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    """(n, H, W, C) uint8."""
    pixels = np.asarray(images.images[rows])
    if pixels.dtype != np.uint8:
        pixels = (pixels.clip(0, 1) * 255).round().astype(np.uint8)
    return np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))


def temperature_of(scored: Scored) -> float | None:
    """The temperature fitted on the validation split; None for masks."""
    if scored.logits is None or scored.labels is None:
        return None
    return fit_temperature(scored.logits, scored.labels)
