# SPDX-License-Identifier: Apache-2.0
"""A local-DP copy of a data set: perturbed once, before training, and stored with its guarantee."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from confide.data.catalog import DataSplits
from confide.data.imageset import ImageSet
from confide.data.ingest import Progress
from confide.data.resemblance import Resemblance, resemblance
from confide.errors import DataError
from confide.mechanisms.keys import RunKey
from confide.mechanisms.local import LocalEpsilon, LocalMechanism, RandomisedResponse, denoise
from confide.privacy.guarantee import rounded_up

IMAGES, RECORD = "data.npz", "guarantee.json"
_CHUNK = 128
_KEYS = {"train": "train", "validation": "val", "test": "test"}


@dataclass(frozen=True)
class LocalGuarantee:
    """What a perturbed set promises for each image in it; figures for different things have different names.

    Attributes:
        label: ε of the label; infinite where labels are stored as they are.
        most_images: Most images that one unit has.
        private: False when the noise came from a known seed.
    """

    mechanism: str
    epsilon: LocalEpsilon
    label: float
    unit: str
    most_images: int
    private: bool

    @property
    def unit_epsilon(self) -> float:
        """ε of all images of a unit without their labels, by composition."""
        return self.most_images * self.epsilon.image

    def lines(self) -> list[str]:
        """One statement a line."""
        e = self.epsilon
        delta = f", δ = {e.delta:g}" if e.delta else ""
        label = "∞ (stored as it is)" if math.isinf(self.label) else rounded_up(self.label)
        both = "∞" if math.isinf(self.label) else f"{rounded_up(e.image + self.label)}{delta}"
        found = [
            *([] if self.private else ["NOT PRIVATE: the noise came from a known seed"]),
            f"mechanism: {self.mechanism}",
            f"one pixel: ε = {rounded_up(e.pixel, 4)}{delta}",
            f"{e.m} pixels: ε = {rounded_up(e.neighbourhood, 4)}{delta}",
            f"the whole image: ε = {rounded_up(e.image)}{delta}",
            f"the label: ε = {label}",
            f"an image with its label: ε = {both}",
        ]
        if self.unit != "image":
            times = f", δ = {self.most_images * e.delta:g}" if e.delta else ""
            words = f"a {self.unit} with {self.most_images} images, without labels"
            found.append(f"{words}: ε = {rounded_up(self.unit_epsilon)}{times}")
        if e.image > 20:
            found.append("The ε of the whole image is too large to mean that nobody can tell whose it is.")
        return found

    def to_dict(self) -> dict[str, Any]:
        """For JSON, where infinity is null."""
        return {
            "mechanism": self.mechanism,
            "epsilon_pixel": self.epsilon.pixel,
            "epsilon_neighbourhood": self.epsilon.neighbourhood,
            "neighbourhood_pixels": self.epsilon.m,
            "epsilon_image": self.epsilon.image,
            "delta": self.epsilon.delta,
            "epsilon_label": None if math.isinf(self.label) else self.label,
            "labels_in_clear": math.isinf(self.label),
            "unit": self.unit,
            "most_images_of_a_unit": self.most_images,
            "epsilon_unit_without_labels": self.unit_epsilon,
            "private": self.private,
            "text": self.lines(),
        }


@dataclass(frozen=True)
class Perturbed:
    """What was written, what it promises, and how it looks raw and after denoising."""

    folder: Path
    guarantee: LocalGuarantee
    raw: Resemblance
    denoised: Resemblance


def perturb(
    splits: DataSplits,
    mechanism: LocalMechanism,
    folder: Path,
    key: RunKey,
    *,
    labels: RandomisedResponse | None = None,
    width: float = 0.0,
    m: int = 16,
    compare_width: float = 1.5,
    progress: Progress | None = None,
) -> Perturbed:
    """Perturb every image of all three splits and write `data.npz` and `guarantee.json`.

    Args:
        labels: Randomised response; without it labels are stored as they are, with ε = ∞.
        width: Denoising before storing, see `confide.mechanisms.local.denoise`.
        m: Size of the neighbourhood that ε is also stated for.
        compare_width: Denoising that the re-identification test tries.

    Raises:
        DataError: If the set cannot be perturbed, or the folder holds one already or cannot be written.
    """
    train = splits.train
    if train.images.dtype != np.uint8 or train.images.ndim != 4 or train.targets.ndim != 1:
        raise DataError(
            "only 2-D 8-bit images with class labels can be perturbed",
            where=splits.info.name,
            why=f"These are {train.images.dtype} of shape {train.images.shape}, task {splits.info.task}.",
        )
    if (folder / RECORD).exists() or (folder / IMAGES).exists():
        raise DataError(
            "the folder holds a perturbed set already",
            where=str(folder),
            why="Perturbing the same images twice adds up their ε.",
            remedy="Name another folder.",
        )
    sets = {"train": train, "validation": splits.validation, "test": splits.test}
    m = min(m, train.images.shape[2] * train.images.shape[3])
    channels, height, width_px = train.images.shape[1:]
    most = max(int(np.bincount(images.unit_index).max()) for images in sets.values())
    guarantee = LocalGuarantee(
        mechanism.describe(),
        mechanism.epsilon((channels, height, width_px), m=m),
        labels.label_epsilon if labels else math.inf,
        train.unit.value,
        most,
        key.private,
    )
    stored: dict[str, NDArray[Any]] = {}
    sample: list[NDArray[np.uint8]] = []
    done, total = 0, sum(map(len, sets.values()))
    offset = 0
    for number, (name, images) in enumerate(sets.items()):
        parts: list[NDArray[np.uint8]] = []
        for start in range(0, len(images), _CHUNK):
            stream = key.stream("local images", step=number, index=start)
            values = mechanism.perturb(np.ascontiguousarray(images.images[start : start + _CHUNK]), stream)
            parts.append(denoise(values, width))
            if name == "train" and start < 8 * _CHUNK:
                sample += [denoise(values, 0.0), denoise(values, compare_width)]
            done += len(values)
            if progress is not None:
                progress(done, total)
        stored |= _arrays(images, np.concatenate(parts), labels, key, number, offset)
        offset += images.n_units
    originals = np.ascontiguousarray(train.images[: 8 * _CHUNK])
    raw = resemblance(np.concatenate(sample[::2]), originals)
    denoised = resemblance(np.concatenate(sample[1::2]), originals)
    result = Perturbed(folder, guarantee, raw, denoised)
    _store(result, splits, stored)
    return result


def _arrays(
    images: ImageSet,
    pixels: NDArray[np.uint8],
    labels: RandomisedResponse | None,
    key: RunKey,
    number: int,
    offset: int,
) -> dict[str, NDArray[Any]]:
    split = _KEYS[images.split]
    answer = (
        images.targets
        if labels is None
        else labels.perturb(images.targets, key.stream("local labels", step=number))
    )
    found: dict[str, NDArray[Any]] = {
        f"{split}_images": pixels.transpose(0, 2, 3, 1),
        f"{split}_labels": answer.astype(np.uint8)[:, None],
    }
    if images.unit.value != "image":
        found[f"{split}_groups"] = (images.unit_index + offset).astype(np.int32)
    return found


def _store(result: Perturbed, splits: DataSplits, stored: dict[str, NDArray[Any]]) -> None:
    """Write the images, then the record: a set without a guarantee is no set."""
    info = splits.info
    record = {
        "schema": 1,
        "guarantee": result.guarantee.to_dict(),
        "looks": {"raw": result.raw.to_dict(), "denoised": result.denoised.to_dict()},
        "info": {
            **asdict(info),
            "name": f"{info.name}-perturbed",
            "sha256": "",
            "md5": "",
            "url": "",
            "file": "",
        },
        "unit": splits.train.unit.value,
    }
    try:
        result.folder.mkdir(parents=True, exist_ok=True)
        part = result.folder / f"{IMAGES}.part"
        with part.open("wb") as file:
            np.savez_compressed(file, **stored)  # pyright: ignore[reportArgumentType]
        part.rename(result.folder / IMAGES)
        (result.folder / RECORD).write_text(
            json.dumps(record, indent=2, ensure_ascii=False), encoding="utf-8"
        )
    except OSError as error:
        raise DataError(
            "cannot be written", where=str(result.folder), why=str(error.strerror or error)
        ) from None
