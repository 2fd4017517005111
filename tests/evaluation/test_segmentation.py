# SPDX-License-Identifier: Apache-2.0
"""Overlap and boundary metrics against MONAI, scikit-learn, and distances between all pairs of points."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from monai.metrics.hausdorff_distance import compute_hausdorff_distance
from monai.metrics.meandice import compute_dice
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import cdist
from sklearn.metrics import jaccard_score

from confide.errors import DataError
from confide.evaluation.bootstrap import Bootstrap
from confide.evaluation.segmentation import hausdorff95, segmentation_scores, summarise


def blobs(count: int, size: int = 32, level: float = 0.0) -> np.ndarray:
    """Smooth random masks, some of them touching the border."""
    field = np.random.default_rng().normal(size=(count, size, size))
    smooth = np.stack([gaussian_filter(one, 4) for one in field])
    return smooth > level * smooth.std()


def one_hot(masks: np.ndarray) -> torch.Tensor:
    return torch.tensor(np.stack([~masks, masks], axis=1))


# MONAI passes an argument to itself that it deprecates.
@pytest.mark.filterwarnings("ignore:monai.metrics.utils:FutureWarning")
def test_equals_monai_and_scikit_learn() -> None:
    predicted, target = blobs(25), blobs(25)
    found = segmentation_scores(predicted, target)
    dice = compute_dice(one_hot(predicted), one_hot(target), include_background=False)[:, 0]
    assert found["dice"] == pytest.approx(dice.numpy(), abs=1e-6)
    iou = [jaccard_score(t.ravel(), p.ravel()) for p, t in zip(predicted, target, strict=True)]
    assert found["iou"] == pytest.approx(np.array(iou), abs=1e-12)
    distance = compute_hausdorff_distance(one_hot(predicted), one_hot(target), percentile=95)[:, 0]
    assert found["hausdorff95"] == pytest.approx(distance.numpy(), abs=1e-4)


def boundary(mask: np.ndarray) -> np.ndarray:
    """Coordinates of the pixels of a mask with a 4-neighbour outside it; beyond the image is outside."""
    wide = np.pad(mask, 1)
    inner = wide[:-2, 1:-1] & wide[2:, 1:-1] & wide[1:-1, :-2] & wide[1:-1, 2:]
    return np.argwhere(mask & ~inner)


def test_hausdorff_by_all_pairs_of_boundary_points() -> None:
    for predicted, target in zip(blobs(20, level=0.8), blobs(20, level=-0.5), strict=True):
        if not predicted.any() or not target.any():
            continue
        pairs = cdist(boundary(predicted), boundary(target))
        expected = max(np.percentile(pairs.min(axis=1), 95), np.percentile(pairs.min(axis=0), 95))
        assert hausdorff95(predicted, target) == pytest.approx(expected, abs=1e-9)


def test_edge_cases() -> None:
    empty, dot = np.zeros((8, 8), bool), np.zeros((8, 8), bool)
    dot[2, 3] = True
    far = np.roll(dot, (3, 4), axis=(0, 1))
    found = segmentation_scores(
        np.stack([empty, empty, dot, dot, far]), np.stack([empty, dot, empty, dot, dot])
    )
    assert found["dice"].tolist() == [1, 0, 0, 1, 0]
    assert found["iou"].tolist() == [1, 0, 0, 1, 0]
    assert found["hausdorff95"][0] == 0 and found["hausdorff95"][3] == 0
    assert np.isnan(found["hausdorff95"][1:3]).all()
    assert found["hausdorff95"][4] == 5.0


def test_summary_is_the_mean_of_what_is_defined_and_says_what_is_not() -> None:
    scores = {"dice": np.array([0.2, 0.4, 0.9]), "hausdorff95": np.array([3.0, np.nan, 5.0])}
    found = summarise(scores)
    assert found["dice"].value == pytest.approx(0.5) and found["dice"].note == ""
    assert found["hausdorff95"].value == pytest.approx(4.0)
    assert found["hausdorff95"].note == "undefined on 1 of 3 images"
    nothing = summarise({"hausdorff95": np.full(3, np.nan)})["hausdorff95"]
    assert math.isnan(nothing.value) and nothing.note == "no image has one"


def test_summary_resamples_patients() -> None:
    """Five patients with forty equal slices: resampling slices would make the interval far too narrow."""
    values = np.repeat([0.1, 0.3, 0.5, 0.7, 0.9], 40)
    units = np.repeat(np.arange(5), 40)
    patients = summarise({"dice": values}, units, Bootstrap(500))["dice"]
    slices = summarise({"dice": values}, None, Bootstrap(500))["dice"]
    assert patients.high - patients.low > 3 * (slices.high - slices.low)


def test_impossible_masks_are_refused() -> None:
    with pytest.raises(DataError, match="expected two equal"):
        segmentation_scores(np.zeros((2, 4, 4), bool), np.zeros((2, 4, 5), bool))
    with pytest.raises(DataError, match="expected bool"):
        segmentation_scores(np.zeros((2, 4, 4), int), np.zeros((2, 4, 4), int))  # type: ignore[arg-type]
