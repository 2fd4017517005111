# SPDX-License-Identifier: Apache-2.0
"""Overlap and boundary metrics of masks, per image, with intervals over privacy units.

| edge case | Dice, IoU | 95% Hausdorff |
|---|---|---|
| both masks empty | 1 | 0 |
| one of them empty | 0 | NaN: there is no distance to nothing; the summary counts these |
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from confide.errors import DataError
from confide.evaluation.bootstrap import Bootstrap, Metric, intervals

SEGMENTATION_METRICS: dict[str, tuple[str, bool]] = {
    "dice": ("Dice", True),
    "iou": ("IoU", True),
    "hausdorff95": ("95% Hausdorff distance, pixels", False),
}

Masks = NDArray[np.bool_]


def segmentation_scores(predicted: Masks, target: Masks) -> dict[str, NDArray[np.float64]]:
    """Dice, IoU and 95% Hausdorff distance of every image.

    Args:
        predicted: (N, H, W) bool.
        target: (N, H, W) bool.

    Returns:
        name -> (N,); NaN where undefined. Distances are in pixels.

    Raises:
        DataError: If the masks do not fit or are not boolean.
    """
    if predicted.shape != target.shape or predicted.ndim != 3:
        raise DataError(
            f"masks have shapes {predicted.shape} and {target.shape}, expected two equal (N, H, W)"
        )
    if predicted.dtype != np.bool_ or target.dtype != np.bool_:
        raise DataError(
            f"masks are {predicted.dtype} and {target.dtype}, expected bool",
            remedy="Compare with the class: mask == k.",
        )
    both = (predicted & target).sum(axis=(1, 2)).astype(np.float64)
    sizes = predicted.sum(axis=(1, 2)).astype(np.float64) + target.sum(axis=(1, 2))
    union = sizes - both
    nothing = sizes == 0
    dice = np.divide(2 * both, sizes, out=np.ones_like(both), where=~nothing)
    iou = np.divide(both, union, out=np.ones_like(both), where=~nothing)
    distance = np.array([hausdorff95(p, t) for p, t in zip(predicted, target, strict=True)], dtype=np.float64)
    return {"dice": dice, "iou": iou, "hausdorff95": distance}


def hausdorff95(predicted: Masks, target: Masks) -> float:
    """The larger of both 95th percentiles of boundary-to-boundary distances, in pixels.

    Args:
        predicted: (H, W) bool.
        target: (H, W) bool.
    """
    from scipy.ndimage import binary_erosion, distance_transform_edt

    if not predicted.any() and not target.any():
        return 0.0
    if not predicted.any() or not target.any():
        return float("nan")
    edges = [mask & ~np.asarray(binary_erosion(mask), dtype=np.bool_) for mask in (predicted, target)]
    distances = [np.asarray(distance_transform_edt(~edge)) for edge in edges]
    there = np.percentile(distances[1][edges[0]], 95)
    back = np.percentile(distances[0][edges[1]], 95)
    return float(max(there, back))


def summarise(
    scores: Mapping[str, NDArray[np.float64]],
    unit_index: NDArray[np.int64] | None = None,
    bootstrap: Bootstrap | None = None,
) -> dict[str, Metric]:
    """Mean of per-image scores over the images where they are defined, with intervals over units.

    Args:
        scores: name -> (N,).
        unit_index: (N,) privacy unit of every image.
        bootstrap: How intervals are made.
    """
    rows = max((len(values) for values in scores.values()), default=0)
    units = np.arange(rows) if unit_index is None else unit_index

    def means(weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        found = {}
        for name, values in scores.items():
            known = ~np.isnan(values)
            total = weights @ known
            top = weights @ np.where(known, values, 0.0)
            found[name] = np.divide(top, total, out=np.full(len(weights), np.nan), where=total > 0)
        return found

    notes = dict.fromkeys(scores, "no image has one")
    found = intervals(means, units, bootstrap, notes=notes)
    return {name: _counted(metric, scores[name]) for name, metric in found.items()}


def _counted(metric: Metric, values: NDArray[np.float64]) -> Metric:
    """Say on how many images a score is undefined."""
    missing = int(np.isnan(values).sum())
    if not missing or not metric.defined:
        return metric
    return Metric(metric.value, metric.low, metric.high, f"undefined on {missing} of {len(values)} images")
