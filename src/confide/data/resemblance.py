# SPDX-License-Identifier: Apache-2.0
"""How private does a perturbed image look? A guarantee need not mean that nobody recognises it, nor the
other way round."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Resemblance:
    """Perturbed images against their originals.

    Attributes:
        psnr: Peak signal-to-noise ratio in dB, mean over images.
        ssim: Structural similarity, mean over images; 1 is identity.
        found: Share of perturbed images whose nearest original is their own.
        chance: The share that guessing would find, 1/N.
        images: N.
        width: Denoising by so many pixels before; 0: none.
    """

    psnr: float
    ssim: float
    found: float
    chance: float
    images: int
    width: float = 0.0

    def to_dict(self) -> dict[str, float | int]:
        """For a record."""
        return asdict(self)


def psnr(first: Pixels, second: Pixels) -> NDArray[np.float64]:
    """10·log10(255²/MSE) of each pair of images (N, C, H, W); identical images count as 100 dB."""
    error = ((first.astype(np.float64) - second) ** 2).reshape(len(first), -1).mean(1)
    return 10 * np.log10(255.0**2 / np.maximum(error, 255.0**2 * 1e-10))


def ssim(first: Pixels, second: Pixels) -> NDArray[np.float64]:
    """Structural similarity of each pair: Gaussian window of width 1.5 pixels, Wang et al. (2004)."""
    from scipy.ndimage import gaussian_filter

    def smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return gaussian_filter(values, (0, 0, 1.5, 1.5), truncate=10 / 3, mode="mirror")

    a, b = first.astype(np.float64), second.astype(np.float64)
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mean_a, mean_b = smooth(a), smooth(b)
    spread_a, spread_b = smooth(a * a) - mean_a**2, smooth(b * b) - mean_b**2
    shared = smooth(a * b) - mean_a * mean_b
    top = (2 * mean_a * mean_b + c1) * (2 * shared + c2)
    return (top / ((mean_a**2 + mean_b**2 + c1) * (spread_a + spread_b + c2))).reshape(len(a), -1).mean(1)


def found_again(perturbed: Pixels, originals: Pixels) -> float:
    """Share of perturbed images (N, ...) whose nearest original, in Euclidean distance, is their own.

    Each is first brought to mean 0 and length 1, so that a change of brightness or contrast hides nobody.
    Of identical
    originals either counts as found.
    """
    a, b = (_directions(images) for images in (perturbed, originals))
    found = 0
    for start in range(0, len(a), 1024):
        alike = a[start : start + 1024] @ b.T
        own = alike[np.arange(len(alike)), np.arange(start, start + len(alike))]
        found += int((own >= alike.max(1) - 1e-6).sum())
    return found / max(1, len(a))


def _directions(images: Pixels) -> NDArray[np.float32]:
    flat = images.reshape(len(images), -1).astype(np.float32)
    flat -= flat.mean(1, keepdims=True)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)


def resemblance(perturbed: Pixels, originals: Pixels, width: float = 0.0) -> Resemblance:
    """All measures for uint8 images (N, C, H, W) that were denoised by this width."""
    return Resemblance(
        float(psnr(perturbed, originals).mean()),
        float(ssim(perturbed, originals).mean()),
        found_again(perturbed, originals),
        1 / max(1, len(originals)),
        len(originals),
        width,
    )
