# SPDX-License-Identifier: Apache-2.0
"""Local differential privacy for images: the image itself is perturbed before anybody trains on it.

Neighbours are two values of one image (replacement). What may differ decides ε, and each mechanism states
three figures
that must never stand for each other:

- *per pixel*: one pixel, all of its channels, differs;
- *per neighbourhood*: up to m pixels differ (Fan 2018, "Image pixelization with differential privacy");
- *per image*: everything differs. Only this says that nobody can tell whose image it is.

Laplace noise of scale β on each of 65,536 pixels in [0, 1] has ε = 1/β per pixel and 65,536/β per image.
Inputs are 8-bit
pixels, so their bounds 0 and 255 are facts, not assumptions; values and noise lie on one lattice, so that
the low bits of
a float cannot tell two inputs apart (Mironov 2012). Scales are in units of the full range, black = 0 and
white = 1.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from confide.errors import PlanError
from confide.mechanisms.keys import Stream
from confide.mechanisms.local_noise import discrete_laplace, gaussian, gaussian_epsilon

Shape = tuple[int, int, int]
WHITE = 255


def _positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise PlanError(f"{name} must be positive and finite, not {value}")


@dataclass(frozen=True)
class LocalEpsilon:
    """What one perturbed image gives away.

    Attributes:
        pixel, neighbourhood, image: ε for one pixel, for `m` pixels, for the whole image. None is a stand-in
            for another.
        m: How many pixels the neighbourhood has.
        delta: Of each of the three; 0 where the mechanism has none.
    """

    pixel: float
    neighbourhood: float
    image: float
    m: int
    delta: float


class LocalMechanism(ABC):
    """Perturbs images one by one."""

    @abstractmethod
    def epsilon(self, shape: Shape, *, m: int = 1) -> LocalEpsilon:
        """What one perturbed image of shape (C, H, W) gives away; `m` pixels may differ."""

    @abstractmethod
    def perturb(self, images: NDArray[np.uint8], stream: Stream) -> NDArray[np.float64]:
        """Images (N, C, H, W), 0..255 -> perturbed values of the same shape, black = 0, white = 1, not
        clamped."""

    @abstractmethod
    def describe(self) -> str:
        """One line for a record."""


def _checked(images: NDArray[np.uint8]) -> Shape:
    if images.dtype != np.uint8 or images.ndim != 4:
        raise PlanError(
            f"local mechanisms take uint8 images (N, C, H, W), not {images.dtype} of shape {images.shape}",
            why="The bounds of the pixels decide ε, and only 8-bit pixels have them for sure.",
        )
    return images.shape[1], images.shape[2], images.shape[3]


def _neighbourhood(m: int, shape: Shape) -> int:
    pixels = shape[1] * shape[2]
    if not 1 <= m <= pixels:
        raise PlanError(f"a neighbourhood has 1 to {pixels} pixels, not {m}")
    return m


@dataclass(frozen=True)
class LaplacePixels(LocalMechanism):
    """Laplace noise of this scale on every value, as published for medical images by Singh et al. (2020).

    ε per pixel is C/scale, ε per image C·H·W/scale.
    """

    scale: float

    def __post_init__(self) -> None:
        _positive("scale", self.scale)

    def epsilon(self, shape: Shape, *, m: int = 1) -> LocalEpsilon:
        """L1 sensitivity is 1 for each value that may differ."""
        values = shape[0] / self.scale
        m = _neighbourhood(m, shape)
        return LocalEpsilon(values, m * values, shape[1] * shape[2] * values, m, 0.0)

    def perturb(self, images: NDArray[np.uint8], stream: Stream) -> NDArray[np.float64]:
        """Discrete Laplace noise on the 256 grey levels."""
        _checked(images)
        return (images + discrete_laplace(self.scale * WHITE, images.shape, stream)) / WHITE

    def describe(self) -> str:
        """One line."""
        return f"Laplace noise of scale {self.scale:g} on each pixel and channel"


@dataclass(frozen=True)
class GaussianPixels(LocalMechanism):
    """Gaussian noise of this standard deviation on every value."""

    stddev: float
    delta: float = 1e-5

    def __post_init__(self) -> None:
        _positive("stddev", self.stddev)
        if not 0 < self.delta < 1:
            raise PlanError(f"δ lies between 0 and 1, not {self.delta}")

    def epsilon(self, shape: Shape, *, m: int = 1) -> LocalEpsilon:
        """L2 sensitivity is the root of the number of values that may differ."""
        m = _neighbourhood(m, shape)
        one, some, whole = (
            gaussian_epsilon(math.sqrt(shape[0] * pixels) / self.stddev, self.delta)
            for pixels in (1, m, shape[1] * shape[2])
        )
        return LocalEpsilon(one, some, whole, m, self.delta)

    def perturb(self, images: NDArray[np.uint8], stream: Stream) -> NDArray[np.float64]:
        """Gaussian noise, rounded to 1/64 of a grey level after it was added."""
        _checked(images)
        noisy = images + self.stddev * WHITE * gaussian(images.shape, stream)
        return np.round(noisy * 64) / (64 * WHITE)

    def describe(self) -> str:
        """One line."""
        return f"Gaussian noise of standard deviation {self.stddev:g} on each pixel and channel"


@dataclass(frozen=True)
class Pixelate(LocalMechanism):
    """Means of blocks of `block`×`block` pixels, with Laplace noise of this scale (Fan 2018, DBSec, DP-Pix).

    A pixel moves its block's mean by at most 1/block², so ε for m pixels is C·m/(block²·scale), and ε per
    image is
    C·(number of blocks)/scale: that of all pixels together.
    """

    block: int
    scale: float

    def __post_init__(self) -> None:
        _positive("scale", self.scale)
        if self.block < 1:
            raise PlanError(f"a block has at least 1 pixel a side, not {self.block}")

    @classmethod
    def for_budget(cls, epsilon: float, *, block: int, m: int, channels: int) -> Pixelate:
        """The least noise at which m pixels are protected with ε."""
        _positive("epsilon", epsilon)
        return cls(block, channels * m / (block * block * epsilon))

    def _blocks(self, shape: Shape) -> tuple[int, int]:
        if shape[1] % self.block or shape[2] % self.block:
            raise PlanError(
                f"sides of {shape[1]} and {shape[2]} pixels are no whole number of blocks of {self.block}",
                remedy="Choose one that divides both: a smaller block at the rim would get too little noise.",
            )
        return shape[1] // self.block, shape[2] // self.block

    def epsilon(self, shape: Shape, *, m: int = 1) -> LocalEpsilon:
        """See the class."""
        rows, columns = self._blocks(shape)
        m = _neighbourhood(m, shape)
        pixel = shape[0] / (self.block**2 * self.scale)
        return LocalEpsilon(pixel, m * pixel, shape[0] * rows * columns / self.scale, m, 0.0)

    def perturb(self, images: NDArray[np.uint8], stream: Stream) -> NDArray[np.float64]:
        """Discrete Laplace noise on the sum of each block, which is a whole number."""
        shape = _checked(images)
        rows, columns = self._blocks(shape)
        side = self.block
        sums = images.reshape(len(images), shape[0], rows, side, columns, side).sum((3, 5), dtype=np.int64)
        noisy = sums + discrete_laplace(self.scale * WHITE * side * side, sums.shape, stream)
        means = noisy / (WHITE * side * side)
        return means.repeat(side, axis=2).repeat(side, axis=3)

    def describe(self) -> str:
        """One line."""
        return f"means of {self.block}×{self.block} blocks with Laplace noise of scale {self.scale:g}"


@dataclass(frozen=True)
class LowFrequencies(LocalMechanism):
    """The `keep`×`keep` lowest coefficients of the orthonormal cosine transform, each with Gaussian noise.

    The transform is an isometry and leaving out coefficients shortens, so two images differ by at most
    √(C·H·W); the
    noise is that of GaussianPixels, but on keep² numbers a channel, which leaves most of it out.
    """

    keep: int
    stddev: float
    delta: float = 1e-5

    def __post_init__(self) -> None:
        _positive("stddev", self.stddev)
        if self.keep < 1 or not 0 < self.delta < 1:
            raise PlanError(f"keep = {self.keep} must be at least 1, and δ = {self.delta} between 0 and 1")

    @classmethod
    def for_budget(cls, epsilon: float, *, keep: int, shape: Shape, delta: float = 1e-5) -> LowFrequencies:
        """The least noise, rounded up, at which the whole image is protected with (ε, δ)."""
        _positive("epsilon", epsilon)
        low, high = 0.0, 1.0
        while cls(keep, high, delta).epsilon(shape).image > epsilon:
            low, high = high, 2 * high
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (
                (low, middle) if cls(keep, middle, delta).epsilon(shape).image <= epsilon else (middle, high)
            )
        return cls(keep, high, delta)

    def _basis(self, side: int) -> NDArray[np.float64]:
        """(keep, side) orthonormal rows of the DCT-II."""
        if self.keep > side:
            raise PlanError(f"an image side of {side} has no {self.keep} coefficients")
        k, x = np.arange(self.keep)[:, None], np.arange(side)[None]
        rows = math.sqrt(2 / side) * np.cos(np.pi * k * (2 * x + 1) / (2 * side))
        rows[0] /= math.sqrt(2)
        return rows

    def epsilon(self, shape: Shape, *, m: int = 1) -> LocalEpsilon:
        """One pixel reaches the kept coefficients by the length of its column of the basis; m by at most
        √m of 1."""
        m = _neighbourhood(m, shape)
        reach = math.sqrt(
            (self._basis(shape[1]) ** 2).sum(0).max() * (self._basis(shape[2]) ** 2).sum(0).max()
        )
        reach = min(1.0, reach * (1 + 1e-9))
        # m pixels: the triangle inequality, or, since the transform shortens, √m.
        lengths = (reach, min(m * reach, math.sqrt(m)), math.sqrt(shape[1] * shape[2]))
        one, some, whole = (
            gaussian_epsilon(math.sqrt(shape[0]) * length / self.stddev, self.delta) for length in lengths
        )
        return LocalEpsilon(one, some, whole, m, self.delta)

    def perturb(self, images: NDArray[np.uint8], stream: Stream) -> NDArray[np.float64]:
        """Coefficients are rounded to 2^-16 of the range after noise was added, then transformed back."""
        shape = _checked(images)
        down, across = self._basis(shape[1]), self._basis(shape[2])
        kept: NDArray[np.float64] = np.einsum("kh,nchw,lw->nckl", down, images / WHITE, across, optimize=True)
        noisy: NDArray[np.float64] = (
            np.round((kept + self.stddev * gaussian(kept.shape, stream)) * 65536) / 65536
        )
        return np.einsum("kh,nckl,lw->nchw", down, noisy, across, optimize=True)

    def describe(self) -> str:
        """One line."""
        return f"{self.keep}×{self.keep} cosine coefficients, Gaussian noise of deviation {self.stddev:g}"


@dataclass(frozen=True)
class RandomisedResponse:
    """A label is kept or replaced by one of the others: ε-private on its own (Warner 1965; k-ary: Kairouz
    2016)."""

    label_epsilon: float
    classes: int

    def __post_init__(self) -> None:
        _positive("label_epsilon", self.label_epsilon)
        if self.classes < 2:
            raise PlanError(f"randomised response needs at least 2 classes, not {self.classes}")

    @property
    def truth(self) -> float:
        """Probability that the label is kept, rounded down: e^ε/(e^ε + K − 1)."""
        return math.nextafter(1 / (1 + (self.classes - 1) * math.exp(-self.label_epsilon)), 0)

    def perturb(self, labels: NDArray[np.int64], stream: Stream) -> NDArray[np.int64]:
        """Labels (N,) in 0..K-1 -> labels of the same shape."""
        if len(labels) and not (labels.min() >= 0 and labels.max() < self.classes):
            raise PlanError(f"labels must lie in 0..{self.classes - 1}")
        kept = stream.bernoulli(self.truth, len(labels))
        others = 1 + np.floor(stream.uniform(len(labels)) * (self.classes - 1)).astype(np.int64)
        return np.where(kept, labels, (labels + others) % self.classes)


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
