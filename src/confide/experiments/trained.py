# SPDX-License-Identifier: Apache-2.0
"""A trained model out of its run folder: built by name, weights from safetensors, input as in training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from confide.errors import ConfigError, DataError, RunError
from confide.experiments.record import Run

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

FILE = "model.safetensors"


@dataclass(frozen=True)
class InputForm:
    """What the model wants to see.

    Attributes:
        channels: C.
        size: (H, W).
        mean: (C,) public constants, of pixels in [0, 1].
        std: (C,).
    """

    channels: int
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]


def input_form(run: Run) -> InputForm:
    """The form of the input, from the record.

    Raises:
        RunError: If the record does not state it.
    """
    model = run.record.model
    known = {"in_channels": model.in_channels, "size": model.size, "mean": model.mean, "std": model.std}
    missing = [name for name, value in known.items() if value is None]
    if model.in_channels is None or model.size is None or model.mean is None or model.std is None:
        raise RunError(
            f"does not state {', '.join(missing)} of the model",
            where=str(run.folder / "run.json"),
            remedy="Train again with this version of confide.",
        )
    return InputForm(model.in_channels, model.size, tuple(model.mean), tuple(model.std))


def trained_model(run: Run) -> nn.Module:
    """The model of a run, in eval mode.

    Raises:
        RunError: If weights or architecture are missing, damaged, or do not fit each other.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from confide.models.registry import build

    path = run.folder / FILE
    if not path.exists():
        raise RunError(
            "is missing",
            where=str(path),
            why=f"The run is {run.record.status}.",
            remedy="Let the training finish.",
        )
    form, record = input_form(run), run.record
    try:
        model = build(
            record.model.name,
            in_channels=form.channels,
            classes=len(record.data.classes),
            **record.model.options,
        )
    except ConfigError as error:
        raise RunError(
            f"names a model that cannot be built: {error}", where=str(run.folder / "run.json")
        ) from None
    try:
        model.load_state_dict(load_file(path))
    except (SafetensorError, OSError) as error:
        raise RunError("is damaged", where=str(path), why=str(error)) from None
    except RuntimeError as error:
        first = " ".join(str(error).split())
        raise RunError(
            "does not fit the model that run.json names", where=str(path), why=first[:300]
        ) from None
    return model.eval()


def as_input(pixels: NDArray[np.uint8], form: InputForm) -> Tensor:
    """(N, H, W, C) uint8 pixels as the normalised (N, C, H, W) float32 that the model was trained on.

    Raises:
        DataError: If the pixels have another form.
    """
    import torch

    expected = (*form.size, form.channels)
    if pixels.ndim != 4 or pixels.shape[1:] != expected:
        raise DataError(f"pixels have shape {pixels.shape}, expected (N, {', '.join(map(str, expected))})")
    scaled = torch.from_numpy(pixels.copy()).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(values).reshape(1, -1, 1, 1) for values in (form.mean, form.std))
    return (scaled - mean) / std


def read_image(path: Path, form: InputForm) -> NDArray[np.uint8]:
    """An image file as (H, W, C) uint8 pixels of the form that the model wants.

    Raises:
        DataError: If the file is missing, is no image, or is implausibly large.
    """
    import numpy as np
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            if image.width * image.height > 100_000_000:
                raise DataError(
                    f"has {image.width}×{image.height} pixels",
                    where=str(path),
                    why="The limit is 100 million.",
                )
            mode = "L" if form.channels == 1 else "RGB"
            ready = image.convert(mode).resize((form.size[1], form.size[0]), Image.Resampling.BILINEAR)
            pixels = np.asarray(ready, dtype=np.uint8)
    except FileNotFoundError:
        raise DataError("there is no such file", where=str(path), remedy="Check the path.") from None
    except Image.DecompressionBombError as error:
        raise DataError("is too large to be a medical image", where=str(path), why=str(error)) from None
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise DataError(
            "is no image that can be read", where=str(path), why=" ".join(str(error).split())
        ) from None
    return pixels.reshape(*form.size, form.channels)
