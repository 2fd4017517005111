# SPDX-License-Identifier: Apache-2.0
"""Figures of a cell beside its run's own: training scores, gradient sparsity, where the network looks.

Training scores come from training images outside the mechanism. That is right for published data only, and
each record says so. Sparsity and saliency are taken of validation and test images, which are public.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from confide.experiments.record import load_run

FILE = "measures.jsonl"
TRAIN_ROWS = 2000
SPARSITY_ROWS = 64
SALIENCY_ROWS = 8
_OUTSIDE = (
    f"scores on {TRAIN_ROWS} training images at most: computed without noise, because the data are "
    "published; on private data they would lie outside every guarantee"
)


class Measuring:
    """A listener that takes further figures at each evaluation and keeps them beside the run.

    Args:
        measures: Which.
        folder: The run folder.
    """

    def __init__(self, measures: Sequence[str], folder: Path) -> None:
        self._measures, self._path = measures, folder / FILE
        self._session: Any = None
        self._step = 0
        self.outside = [_OUTSIDE] if "train-scores" in measures else []

    def reading(self, done: int, total: int) -> None:
        """Nothing to measure yet."""

    def started(self, session: Any) -> None:
        """Remember the session, whose model is measured."""
        self._session = session

    def stepped(self, number: int, loss: float | None, epsilon: float | None) -> None:
        """Remember the step."""
        self._step = number

    def evaluated(self, epoch: float, metrics: dict[str, float | None]) -> None:
        """Take the figures; the model is in the state that was just evaluated."""
        line: dict[str, Any] = {"step": self._step, "epoch": epoch}
        model, splits = self._session.trainer.model, self._session.splits
        if "train-scores" in self._measures:
            line["train"] = train_scores(model, splits.train)
        if "gradient-sparsity" in self._measures:
            line["sparsity"] = gradient_sparsity(model, splits)
        if len(line) > 2:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

    def collected(self) -> list[dict[str, Any]]:
        """All lines; a step measured twice after a crash counts once, a torn last line not at all."""
        if not self._path.exists():
            return []
        lines: dict[int, dict[str, Any]] = {}
        for row in self._path.read_text(encoding="utf-8").splitlines():
            try:
                line = json.loads(row)
            except json.JSONDecodeError:
                continue
            lines[line["step"]] = line
        return [lines[step] for step in sorted(lines)]


def at_end(measures: Sequence[str], folder: Path, collected: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures of a finished run, by name."""
    found: dict[str, Any] = {}
    if collected:
        found["measures"] = collected
    if "saliency" in measures:
        found["saliency"] = saliency(folder)
    return found


def train_scores(model: Any, images: Any) -> dict[str, float | None]:
    """Scores on the training images, or on evenly spaced ones where there are many."""
    from dataclasses import replace

    from confide.experiments.scores import score

    rows = np.unique(np.linspace(0, len(images) - 1, min(len(images), TRAIN_ROWS)).round().astype(np.int64))
    index = np.unique(images.unit_index[rows], return_inverse=True)[1].astype(np.int64)
    some = replace(
        images, images=images.images[rows], targets=images.targets[rows], unit_index=index, columns={}
    )
    return score(model, some).values()


def gradient_sparsity(model: Any, splits: Any) -> float:
    """Share of entries of per-image gradients that are at most 1e-5, of validation images."""
    import torch

    from confide.evaluation.sparsity import sparsity
    from confide.gradients.reference import per_sample_gradients
    from confide.training.losses import LOSSES

    images = splits.validation
    rows = np.unique(
        np.linspace(0, len(images) - 1, min(len(images), SPARSITY_ROWS)).round().astype(np.int64)
    )
    loss = LOSSES["cross-entropy" if splits.info.task == "classification" else "dice"]
    was = model.training
    model.eval()
    try:
        gradients = per_sample_gradients(model, loss, images.batch(rows))
    finally:
        model.train(was)
    with torch.no_grad():
        return sparsity(gradients)


def saliency(folder: Path) -> dict[str, Any]:
    """Grad-CAM, guided backpropagation and impulse response of a trained model, and how far they agree.

    Means over the first test images that are kept with the run. Maps, not images, are what is compared.
    """
    import torch

    from confide.evaluation.saliency import co_location, grad_cam, guided_backprop, impulse_response, scaled
    from confide.experiments.trained import as_input, input_form, trained_model

    run = load_run(folder)
    kept = run.predictions
    assert kept is not None and kept.samples is not None and kept.labels is not None
    assert kept.sample_rows is not None
    images = as_input(kept.samples[:SALIENCY_ROWS], input_form(run))
    classes = torch.from_numpy(kept.labels[kept.sample_rows[: len(images)]])
    model = trained_model(run)
    guided = scaled(guided_backprop(model, images, classes).abs().sum(1))
    cam = grad_cam(model, images, classes)
    pairs = [co_location(g, c) for g, c in zip(guided, cam, strict=True)]
    responses = [impulse_response(model, image) for image in images[:2]]
    impulse = [co_location(r.energy, g) for r, g in zip(responses, guided[: len(responses)], strict=True)]
    return {
        "images": len(images),
        "guided_and_cam_overlap": float(np.mean([pair.overlap for pair in pairs])),
        "guided_and_cam_rank_correlation": _mean([pair.rank_correlation for pair in pairs]),
        "impulse_magnitude": float(np.mean([float(r.energy.mean()) for r in responses])),
        "impulse_and_guided_overlap": float(np.mean([pair.overlap for pair in impulse])),
        "impulse_and_guided_rank_correlation": _mean([pair.rank_correlation for pair in impulse]),
    }


def _mean(values: list[float]) -> float | None:
    known = [value for value in values if np.isfinite(value)]
    return float(np.mean(known)) if known else None
