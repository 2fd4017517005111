# SPDX-License-Identifier: Apache-2.0
"""`predictions.npz`: what the trained model says about the test set. It holds no identifier of anybody."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from confide.errors import RunError

FILE = "predictions.npz"
MOST_SAMPLES = 24
_SUBGROUP = "subgroup_"
_SCORE = "score_"


@dataclass(frozen=True)
class Predictions:
    """Predictions for the N rows of the test set.

    Classification has `probabilities` (N, K) and `labels` (N,). Segmentation has per-image `scores` instead
    (dice, iou, hausdorff95; each (N,), NaN where undefined).

    Attributes:
        probabilities: (N, K) float32, rows sum to one; or None.
        labels: (N,) int64; or None.
        unit_index: (N,) int64, 0..U-1: which rows belong to one privacy unit; None: every row is its own.
        subgroups: column -> (N,) strings, for example sex or age band.
        scores: metric -> (N,) float64 per-image scores.
        samples: (n, H, W, C) uint8 images of the test set, at most 24.
        sample_rows: (n,) int64, the rows they are.
        sample_targets: (n, H, W) masks of a segmentation task.
        sample_predictions: (n, H, W) predicted masks.
    """

    probabilities: NDArray[np.float32] | None = None
    labels: NDArray[np.int64] | None = None
    unit_index: NDArray[np.int64] | None = None
    subgroups: Mapping[str, NDArray[np.str_]] = field(default_factory=dict)
    scores: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    samples: NDArray[np.uint8] | None = None
    sample_rows: NDArray[np.int64] | None = None
    sample_targets: NDArray[np.uint8] | None = None
    sample_predictions: NDArray[np.uint8] | None = None

    def __post_init__(self) -> None:
        _check(self)

    @property
    def rows(self) -> int:
        """N."""
        if self.labels is not None:
            return len(self.labels)
        return max((len(values) for values in self.scores.values()), default=0)

    def save(self, folder: Path) -> Path:
        """Write `predictions.npz` in one piece."""
        arrays: dict[str, Any] = {
            name: value for name in _ARRAYS if (value := getattr(self, name)) is not None
        }
        arrays |= {
            _SUBGROUP + name: np.asarray(values, dtype=np.str_) for name, values in self.subgroups.items()
        }
        arrays |= {_SCORE + name: values for name, values in self.scores.items()}
        path = folder / FILE
        part = path.with_suffix(".npz.part")
        with part.open("wb") as file:
            np.savez_compressed(file, **arrays)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        return path

    @classmethod
    def load(cls, folder: Path) -> Predictions:
        """Read `predictions.npz`.

        Raises:
            RunError: If it is missing, damaged, or holds arrays that do not fit each other.
        """
        path = folder / FILE
        if not path.exists():
            raise RunError(
                "is missing", where=str(path), why="The run ended before its test set was evaluated."
            )
        try:
            # Opened here: numpy leaves a file open that turns out to be no archive.
            with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
            raise RunError("is damaged", where=str(path), why=" ".join(str(error).split())) from None
        try:
            return cls(
                **{name: arrays[name] for name in _ARRAYS if name in arrays},
                subgroups=_prefixed(arrays, _SUBGROUP),
                scores=_prefixed(arrays, _SCORE),
            )
        except RunError as error:
            raise RunError(error.what, where=str(path)) from None


_ARRAYS = (
    "probabilities",
    "labels",
    "unit_index",
    "samples",
    "sample_rows",
    "sample_targets",
    "sample_predictions",
)


def _prefixed(arrays: Mapping[str, NDArray[Any]], prefix: str) -> dict[str, NDArray[Any]]:
    return {name.removeprefix(prefix): values for name, values in arrays.items() if name.startswith(prefix)}


def _check(it: Predictions) -> None:
    """Refuse arrays that do not fit each other."""
    if (it.probabilities is None) != (it.labels is None):
        raise RunError("holds probabilities without labels, or labels without probabilities")
    if it.probabilities is not None and it.labels is not None:
        if it.probabilities.ndim != 2 or it.labels.shape != it.probabilities.shape[:1]:
            raise RunError(f"probabilities {it.probabilities.shape} and labels {it.labels.shape} do not fit")
        if it.labels.size and not 0 <= it.labels.min() <= it.labels.max() < it.probabilities.shape[1]:
            raise RunError(f"labels lie outside 0..{it.probabilities.shape[1] - 1}")
    elif not it.scores:
        raise RunError("holds neither probabilities nor scores")
    named = {"unit_index": it.unit_index, **it.subgroups, **it.scores}
    for name, values in named.items():
        if values is not None and values.shape != (it.rows,):
            raise RunError(f"{name} has shape {values.shape}, expected ({it.rows},)")
    if it.samples is not None:
        if it.samples.ndim != 4 or it.samples.dtype != np.uint8 or len(it.samples) > MOST_SAMPLES:
            raise RunError(
                f"samples are {it.samples.dtype} {it.samples.shape}, "
                f"expected uint8 (n ≤ {MOST_SAMPLES}, H, W, C)"
            )
        rows = it.sample_rows
        if (
            rows is None
            or rows.shape != it.samples.shape[:1]
            or (rows.size and not 0 <= rows.min() <= rows.max() < it.rows)
        ):
            raise RunError("sample_rows do not name the rows of the samples")
