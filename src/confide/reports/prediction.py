# SPDX-License-Identifier: Apache-2.0
"""What a trained classifier says about images, and where it looked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from confide.errors import ConfideError, ModelError, RunError
from confide.experiments.record import Run
from confide.experiments.trained import as_input, input_form, read_image, trained_model


@dataclass(frozen=True)
class Prediction:
    """One image's answer.

    Attributes:
        name: The class.
        probability: Its probability, with the run's temperature where it was calibrated.
        probabilities: class -> probability.
        overlay: (H, W, 3) uint8 saliency over the image; None if not asked for.
    """

    name: str
    probability: float
    probabilities: dict[str, float]
    overlay: NDArray[np.uint8] | None = None


def predict_images(run: Run, paths: Sequence[Path], *, saliency: bool = False) -> list[Prediction]:
    """Classify image files.

    Args:
        run: A finished classification run.
        paths: Image files.
        saliency: Whether to draw where the model looked.

    Raises:
        RunError: If the run has no usable model.
        DataError: If a file cannot be read.
    """
    form = input_form(run)
    pixels = np.stack([read_image(path, form) for path in paths])
    return predict_pixels(run, pixels, saliency=saliency)


def predict_pixels(run: Run, pixels: NDArray[np.uint8], *, saliency: bool = False) -> list[Prediction]:
    """Classify (N, H, W, C) uint8 pixels."""
    import torch

    from confide.evaluation.saliency import grad_cam, overlay

    model, form = trained_model(run), input_form(run)
    inputs = as_input(pixels, form)
    temperature = run.record.calibration.temperature if run.record.calibration is not None else 1.0
    found: list[Prediction] = []
    for start in range(0, len(inputs), 64):
        part = inputs[start : start + 64]
        with torch.no_grad():
            scores = torch.softmax(model(part) / temperature, dim=1)
        best = scores.argmax(dim=1)
        maps = grad_cam(model, part, best).numpy().astype(np.float64) if saliency else None
        for i, row in enumerate(scores.tolist()):
            named = dict(zip(run.record.data.classes, row, strict=True))
            k = int(best[i])
            drawn = overlay(pixels[start + i], maps[i]) if maps is not None else None
            found.append(Prediction(run.record.data.classes[k], row[k], named, drawn))
    return found


def overlays_for(run: Run, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.uint8] | None, str]:
    """Saliency overlays for a report, or None and why there are none.

    Args:
        run: The run.
        pixels: (n, H, W, C) uint8.
    """
    if run.model_path is None:
        return None, "The run folder holds no trained model, so where it looked cannot be shown."
    try:
        drawn = [one.overlay for one in predict_pixels(run, pixels, saliency=True)]
    except (RunError, ModelError, ConfideError) as error:
        return (
            None,
            f"Where the model looked cannot be shown: {str(error).replace(str(run.folder), run.record.name)}",
        )
    return np.stack([image for image in drawn if image is not None]), ""


def save_overlays(found: Sequence[Prediction], paths: Sequence[Path], folder: Path) -> list[Path]:
    """Write the overlays as PNG, enlarged to at least 224 pixels; files of equal names are numbered.

    Raises:
        RunError: If the folder cannot be written.
    """
    from PIL import Image

    written: list[Path] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for one, path in zip(found, paths, strict=True):
            assert one.overlay is not None
            image = Image.fromarray(one.overlay)
            factor = max(1, -(-224 // min(image.size)))
            image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
            target = folder / f"{path.stem}-saliency.png"
            number = 2
            while target in written:
                target = folder / f"{path.stem}-{number}-saliency.png"
                number += 1
            image.save(target)
            written.append(target)
    except OSError as error:
        raise RunError("cannot be written", where=str(folder), why=error.strerror or str(error)) from None
    return written
