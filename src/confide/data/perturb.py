# SPDX-License-Identifier: Apache-2.0
"""A local-DP copy of a data set: perturbed once, before training, and stored with its guarantee."""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from confide.data.arrays import IMAGES, RECORD
from confide.data.imageset import ImageSet
from confide.data.ingest import Progress
from confide.data.loaded import DataSplits
from confide.data.local_guarantee import LocalGuarantee
from confide.data.releases import note
from confide.data.resemblance import Resemblance, resemblance
from confide.errors import DataError
from confide.mechanisms.keys import RunKey
from confide.mechanisms.local import LocalMechanism, RandomisedResponse, denoise

__all__ = ["IMAGES", "LOOKS", "RECORD", "LocalGuarantee", "Perturbed", "perturb"]
LOOKS = "looks.json"
_NOTE = "computed from the originals, outside any guarantee: for their owner only, not to be passed on"
_CHUNK = 128
_KEYS = {"train": "train", "validation": "val", "test": "test"}
# Whoever wants to see through the noise tries several widths, in pixels; the best counts.
_WIDTHS = (0.75, 1.5, 3.0, 6.0)
_COMPARED = 1024


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
    progress: Progress | None = None,
) -> Perturbed:
    """Perturb every image of all three splits and write `data.npz` and `guarantee.json`.

    How the copy looks beside the originals goes into `looks.json`, which is no part of what may be passed on.
    Subgroup columns are left out: they would lie in the copy in clear.

    Args:
        labels: Randomised response; without it labels, and masks always, are stored as they are, with ε = ∞.
        width: Denoising before storing, see `confide.mechanisms.local.denoise`.
        m: Size of the neighbourhood that ε is also stated for.

    Raises:
        DataError: If the set cannot be perturbed, or the folder holds one already or cannot be written.
    """
    sets = _checked(splits, folder, labels)
    shape = splits.train.images.shape
    epsilon = mechanism.epsilon((shape[1], shape[2], shape[3]), m=min(m, shape[2] * shape[3]))
    # Written down before anything is drawn; a seeded copy protects nobody and adds to nothing.
    released = note(splits.fingerprint, epsilon.image, epsilon.delta) if key.private else None
    guarantee = LocalGuarantee(
        mechanism.describe(),
        epsilon,
        labels.label_epsilon if labels else math.inf,
        splits.train.unit.value,
        max(int(np.bincount(images.unit_index).max(initial=1)) for images in sets.values()),
        key.private,
        released,
    )
    stored: dict[str, NDArray[Any]] = {}
    done, total, offset = 0, sum(map(len, sets.values())), 0
    for number, images in enumerate(sets.values()):
        pixels = np.empty(images.images.shape, np.uint8)
        for start in range(0, len(images), _CHUNK):
            stream = key.stream("local images", step=number, index=start)
            part = np.ascontiguousarray(images.images[start : start + _CHUNK])
            pixels[start : start + _CHUNK] = denoise(mechanism.perturb(part, stream), width)
            done += len(part)
            if progress is not None:
                progress(done, total)
        stored |= _arrays(images, pixels, labels, key, number, offset)
        offset += images.n_units
    raw, denoised = _looks(stored["train_images"], splits.train)
    result = Perturbed(folder, guarantee, raw, denoised)
    _store(result, splits, stored)
    return result


def _checked(splits: DataSplits, folder: Path, labels: RandomisedResponse | None) -> dict[str, ImageSet]:
    train = splits.train
    if train.images.dtype != np.uint8 or train.images.ndim != 4:
        raise DataError(
            "only 2-D 8-bit images can be perturbed",
            where=splits.info.name,
            why=f"These are {train.images.dtype} of shape {train.images.shape}.",
        )
    if labels is not None and train.targets.ndim > 1:
        raise DataError(
            "masks cannot be perturbed by randomised response", remedy="Leave --label-epsilon out."
        )
    sets = {"train": train, "validation": splits.validation, "test": splits.test}
    empty = [name for name, images in sets.items() if not len(images)]
    if empty:
        raise DataError(f"there are no images for {empty[0]}", where=splits.info.name)
    if splits.local_guarantee is not None:
        raise DataError(
            "the set is a perturbed copy already",
            where=splits.info.name,
            why="Noise on noise has no guarantee of its own for the people in it.",
            remedy="Perturb the original.",
        )
    if (folder / RECORD).exists() or (folder / IMAGES).exists():
        raise DataError(
            "the folder holds a perturbed set already",
            where=str(folder),
            why="Perturbing the same images twice adds up their ε.",
            remedy="Name another folder.",
        )
    return sets


def _looks(stored: NDArray[np.uint8], train: ImageSet) -> tuple[Resemblance, Resemblance]:
    """The stored images against their originals: as they are, and at the width that finds most of them
    again."""
    originals = np.ascontiguousarray(train.images[:_COMPARED])
    copies = np.ascontiguousarray(stored[:_COMPARED].transpose(0, 3, 1, 2))
    tried = [resemblance(denoise(copies / 255, width), originals, width) for width in _WIDTHS]
    return resemblance(copies, originals), max(tried, key=lambda looks: (looks.found, looks.psnr))


def _arrays(
    images: ImageSet,
    pixels: NDArray[np.uint8],
    labels: RandomisedResponse | None,
    key: RunKey,
    number: int,
    offset: int,
) -> dict[str, NDArray[Any]]:
    split = _KEYS[images.split]
    found: dict[str, NDArray[Any]] = {f"{split}_images": pixels.transpose(0, 2, 3, 1)}
    if images.targets.ndim > 1:
        found[f"{split}_masks"] = images.targets.astype(np.uint8)
    else:
        answer = images.targets
        if labels is not None:
            answer = labels.perturb(answer, key.stream("local labels", step=number))
        small = np.uint8 if len(images.info.classes) <= 256 else np.int32
        found[f"{split}_labels"] = answer.astype(small)[:, None]
    if images.unit.value != "image":
        found[f"{split}_groups"] = (images.unit_index + offset).astype(np.int32)
    return found


def _store(result: Perturbed, splits: DataSplits, stored: dict[str, NDArray[Any]]) -> None:
    """Write the images, then the record: a set without a guarantee is no set."""
    info = splits.info
    empty = {"sha256": "", "md5": (), "url": "", "file": "", "sizes": (), "counts": ()}
    record = {
        "schema": 1,
        "guarantee": result.guarantee.to_dict(),
        "info": {**asdict(info), **empty, "name": f"{info.name}-perturbed"},
        "unit": splits.train.unit.value,
    }
    try:
        result.folder.mkdir(parents=True, exist_ok=True)
        part = result.folder / f"{IMAGES}.part"
        with part.open("wb") as file:
            np.savez_compressed(file, **stored)  # pyright: ignore[reportArgumentType]
            file.flush()
            os.fsync(file.fileno())
        part.rename(result.folder / IMAGES)
        part = result.folder / f"{RECORD}.part"
        part.write_text(json.dumps(record, indent=2, ensure_ascii=False), encoding="utf-8")
        part.rename(result.folder / RECORD)
        looks = {"note": _NOTE, "raw": result.raw.to_dict(), "denoised": result.denoised.to_dict()}
        (result.folder / LOOKS).write_text(json.dumps(looks, indent=2), encoding="utf-8")
    except OSError as error:
        raise DataError(
            "cannot be written", where=str(result.folder), why=str(error.strerror or error)
        ) from None
