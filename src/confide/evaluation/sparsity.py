# SPDX-License-Identifier: Apache-2.0
"""Sparsity and norms of gradients: what equivariance changes under DP (Hölzl et al. 2022, figure 1 right).

These are un-noised statistics. Of private training data they are outside every guarantee: compute them on
public data, or declare them. `confide.evaluation.diagnostics` takes them from a batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from confide.errors import DataError

THRESHOLD = 1e-5


def l0(gradient: Tensor, threshold: float = THRESHOLD) -> int:
    """ℓ⁰: how many entries are larger in magnitude than the threshold. NaN counts as large."""
    return int((~(gradient.abs() <= threshold)).sum())


def sparsity(gradients: Mapping[str, Tensor], threshold: float = THRESHOLD) -> float:
    """Share of all entries that are at most the threshold in magnitude; NaN when there are none.

    Args:
        gradients: name -> a gradient of any shape.
        threshold: Entries up to here count as zero.
    """
    total = sum(gradient.numel() for gradient in gradients.values())
    large = sum(l0(gradient, threshold) for gradient in gradients.values())
    return 1 - large / total if total else float("nan")


def sparsity_by_layer(gradients: Mapping[str, Tensor], threshold: float = THRESHOLD) -> dict[str, float]:
    """`sparsity` of each parameter."""
    return {name: sparsity({name: gradient}, threshold) for name, gradient in gradients.items()}


def clip_fraction(norms: Tensor, bound: float) -> float:
    """Share of units whose gradient norm exceeds the clip norm; NaN when there are none.

    Args:
        norms: (U,) norms before clipping.
        bound: Clip norm C.
    """
    return float((norms > bound).double().mean()) if norms.numel() else float("nan")


@dataclass(frozen=True)
class NormHistogram:
    """Counts of gradient norms between logarithmic edges.

    Attributes:
        edges: (b + 1,) edges.
        counts: (b,) units.
    """

    edges: NDArray[np.float64]
    counts: NDArray[np.int64]


def norm_histogram(norms: Tensor, bins: int = 20, *, low: float = 1e-3, high: float = 1e3) -> NormHistogram:
    """Histogram of norms over fixed logarithmic bins, so that the edges tell nothing about the data.

    Norms outside [low, high], and non-finite ones, are counted in the outermost bins.

    Raises:
        DataError: If there are no bins.
    """
    if bins < 1:
        raise DataError(f"{bins} bins", remedy="Give at least one.")
    edges = np.logspace(np.log10(low), np.log10(high), bins + 1)
    values = norms.detach().double().nan_to_num(nan=high, posinf=high).clamp(low, high).cpu().numpy()
    place = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, bins - 1)
    return NormHistogram(edges, np.bincount(place, minlength=bins).astype(np.int64))
