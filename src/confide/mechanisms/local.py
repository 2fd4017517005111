# SPDX-License-Identifier: Apache-2.0
"""Local differential privacy for images: the image itself is perturbed before anybody trains on it.

Neighbours are two values of one image (replacement). What may differ decides ε, and each mechanism states
three figures that must never stand for each other:

- *per pixel*: one pixel, all of its channels, differs;
- *per neighbourhood*: up to m pixels differ (Fan 2018, "Image pixelization with differential privacy");
- *per image*: everything differs. Only this says that nobody can tell whose image it is.

Laplace noise of scale β on each of 65,536 pixels in [0, 1] has ε = 1/β per pixel and 65,536/β per image.
Inputs are 8-bit pixels, so their bounds 0 and 255 are facts, not assumptions; values and noise lie on one
lattice and the noise is sampled exactly, so that the low bits of a float cannot tell two inputs apart
(Mironov 2012). Scales are in units of the full range, black = 0 and white = 1.

| mechanism | noise | for |
|---|---|---|
| `LaplacePixels`, `GaussianPixels` | on each pixel | what was published; ε of an image is in the thousands |
| `Pixelate` | Laplace on means of blocks | m pixels: a face, a nodule, a pacemaker |
| `LowFrequencies`, `CoarseWavelets` | Gaussian on coarse content | the whole image, at an ε with a meaning |
| `RandomisedResponse` | on the label | the label, which no noise on pixels protects |
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from confide.mechanisms.local_base import WHITE, LocalEpsilon, LocalMechanism, calibrated
from confide.mechanisms.local_labels import RandomisedResponse
from confide.mechanisms.local_pixels import GaussianPixels, LaplacePixels, Pixelate
from confide.mechanisms.local_transforms import CoarseContent, CoarseWavelets, LowFrequencies

__all__ = [
    "CoarseContent",
    "CoarseWavelets",
    "GaussianPixels",
    "LaplacePixels",
    "LocalEpsilon",
    "LocalMechanism",
    "LowFrequencies",
    "Pixelate",
    "RandomisedResponse",
    "calibrated",
    "denoise",
]


def denoise(values: NDArray[np.float64], width: float) -> NDArray[np.uint8]:
    """Smooth (N, C, H, W) by a Gaussian of this width in pixels, clamp to 0..255: post-processing, which
    costs no ε.

    Width 0 clamps only.
    """
    import scipy.ndimage  # pyright: ignore[reportMissingTypeStubs]

    filters: Any = scipy.ndimage

    smooth: NDArray[np.float64] = (
        filters.gaussian_filter(values, (0, 0, width, width), mode="nearest") if width > 0 else values
    )
    return (smooth.clip(0, 1) * WHITE).round().astype(np.uint8)
