# SPDX-License-Identifier: Apache-2.0
"""Local mechanisms on the coarse content of an image: few numbers, so that little noise hides the whole
image.

The transform is orthonormal and leaving out coefficients shortens, so two images differ by at most √(C·H·W)
in what is kept. The noise is that of GaussianPixels for the same ε, but it lies on the kept numbers only,
and going back to pixels leaves most of it out.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from confide.errors import PlanError
from confide.mechanisms.keys import Stream
from confide.mechanisms.local_base import (
    WHITE,
    LocalEpsilon,
    LocalMechanism,
    Shape,
    calibrated,
    checked,
    neighbourhood,
    positive,
    probability,
)
from confide.mechanisms.local_noise import add_gaussian, lattice_epsilon

Rows = NDArray[np.float64]


@dataclass(frozen=True)
class CoarseContent(LocalMechanism):
    """Kept coefficients of an orthonormal transform, each with Gaussian noise of this standard deviation."""

    keep: int
    stddev: float
    delta: float = 1e-5

    def __post_init__(self) -> None:
        positive("stddev", self.stddev)
        probability("δ", self.delta)
        if self.keep < 1:
            raise PlanError(f"keep = {self.keep} must be at least 1")

    @abstractmethod
    def basis(self, side: int) -> Rows:
        """(keep, side): the orthonormal rows that are kept.

        Raises:
            PlanError: If a side of so many pixels has no such rows.
        """

    @classmethod
    def for_budget(cls, epsilon: float, *, keep: int, shape: Shape, delta: float = 1e-5) -> Self:
        """The least noise, rounded up, at which the whole image is protected with (ε, δ)."""
        return calibrated(
            lambda stddev: cls(keep, stddev, delta), lambda made: made.epsilon(shape).image, epsilon
        )

    def epsilon(self, shape: Shape, *, m: int = 1) -> LocalEpsilon:
        """One pixel reaches what is kept by the length of its column of the basis; m by at most √m of 1."""
        m = neighbourhood(m, shape)
        down, across = self.basis(shape[1]), self.basis(shape[2])
        reach = min(1.0, math.sqrt((down**2).sum(0).max() * (across**2).sum(0).max()) * (1 + 1e-9))
        # m pixels: the triangle inequality, or, since the transform shortens, √m.
        lengths = (reach, min(m * reach, math.sqrt(m)), math.sqrt(shape[1] * shape[2]))
        count = shape[0] * self.keep * self.keep
        one, some, whole = (
            lattice_epsilon(math.sqrt(shape[0]) * length, self.stddev, count, self.delta)
            for length in lengths
        )
        return LocalEpsilon(one, some, whole, m, self.delta)

    def perturb(self, images: NDArray[np.uint8], stream: Stream) -> NDArray[np.float64]:
        """Coefficients with noise on a lattice, transformed back."""
        shape = checked(images)
        down, across = self.basis(shape[1]), self.basis(shape[2])
        kept: Rows = np.einsum("kh,nchw,lw->nckl", down, images / WHITE, across, optimize=True)
        noisy = add_gaussian(kept, self.stddev, stream)
        return np.einsum("kh,nckl,lw->nchw", down, noisy, across, optimize=True)


@dataclass(frozen=True)
class LowFrequencies(CoarseContent):
    """The `keep`×`keep` lowest coefficients of the orthonormal cosine transform."""

    def basis(self, side: int) -> Rows:
        """The first rows of the DCT-II."""
        if self.keep > side:
            raise PlanError(f"an image side of {side} has no {self.keep} coefficients")
        k, x = np.arange(self.keep)[:, None], np.arange(side)[None]
        rows = math.sqrt(2 / side) * np.cos(np.pi * k * (2 * x + 1) / (2 * side))
        rows[0] /= math.sqrt(2)
        return rows

    def describe(self) -> str:
        """One line."""
        return f"{self.keep}×{self.keep} cosine coefficients, Gaussian noise of deviation {self.stddev:g}"


@dataclass(frozen=True)
class CoarseWavelets(CoarseContent):
    """The `keep`×`keep` approximation coefficients of the Haar wavelet: scaled means of blocks, a
    down-sampled image."""

    def basis(self, side: int) -> Rows:
        """Scaling functions at the level that has `keep` of them: side/keep must be a power of two."""
        length = side // self.keep if side % self.keep == 0 else 0
        if length < 1 or length & (length - 1):
            raise PlanError(
                f"an image side of {side} has no level of {self.keep} Haar coefficients",
                remedy="Halve the side as often as it is even, for example 28 → 14 → 7.",
            )
        return np.repeat(np.eye(self.keep), length, axis=1) / math.sqrt(length)

    def describe(self) -> str:
        """One line."""
        return (
            f"{self.keep}×{self.keep} coarse Haar coefficients, Gaussian noise of deviation {self.stddev:g}"
        )
