# SPDX-License-Identifier: Apache-2.0
"""Local mechanisms on pixels and on means of blocks of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from confide.errors import PlanError
from confide.mechanisms.keys import Stream
from confide.mechanisms.local_base import (
    WHITE,
    LocalEpsilon,
    LocalMechanism,
    Shape,
    checked,
    neighbourhood,
    positive,
    probability,
    rounded,
)
from confide.mechanisms.local_noise import add_gaussian, discrete_laplace, lattice_epsilon


@dataclass(frozen=True)
class LaplacePixels(LocalMechanism):
    """Laplace noise of this scale on every value, as published for medical images by Singh et al. (2020).

    ε per pixel is C/scale, ε per image C·H·W/scale.

    Attributes:
        scale: β, in units of the pixel range. std: Give these, one a channel, where the noise is added to
            images that were normalised by them before: on the
            pixel range that is noise of scale β·std, and ε is larger by 1/std. None: noise on [0, 1].
    """

    scale: float
    std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        positive("scale", self.scale)
        for value in self.std or ():
            positive("std", value)

    def _scales(self, channels: int) -> list[Fraction]:
        """The scale on [0, 1] of each channel, exactly."""
        if self.std is None:
            return [Fraction(self.scale)] * channels
        if len(self.std) != channels:
            raise PlanError(f"{len(self.std)} constants of normalisation for {channels} channels")
        return [Fraction(self.scale) * Fraction(value) for value in self.std]

    def epsilon(self, shape: Shape, *, m: int = 1) -> LocalEpsilon:
        """L1 sensitivity is 1 for each value that may differ."""
        pixel = sum((1 / scale for scale in self._scales(shape[0])), Fraction(0))
        m = neighbourhood(m, shape)
        return LocalEpsilon(rounded(pixel), rounded(m * pixel), rounded(shape[1] * shape[2] * pixel), m, 0.0)

    def perturb(self, images: NDArray[np.uint8], stream: Stream) -> NDArray[np.float64]:
        """Discrete Laplace noise on the 256 grey levels."""
        shape = checked(images)
        one = (len(images), *shape[1:])
        noise = [discrete_laplace(scale * WHITE, one, stream) for scale in self._scales(shape[0])]
        return (images + np.stack(noise, axis=1)) / WHITE

    def describe(self) -> str:
        """One line."""
        where = "" if self.std is None else f", added after normalisation by {', '.join(map(str, self.std))}"
        return f"Laplace noise of scale {self.scale:g} on each pixel and channel{where}"


@dataclass(frozen=True)
class GaussianPixels(LocalMechanism):
    """Gaussian noise of this standard deviation on every value."""

    stddev: float
    delta: float = 1e-5

    def __post_init__(self) -> None:
        positive("stddev", self.stddev)
        probability("δ", self.delta)

    def epsilon(self, shape: Shape, *, m: int = 1) -> LocalEpsilon:
        """L2 sensitivity is the root of the number of values that may differ."""
        m = neighbourhood(m, shape)
        one, some, whole = (
            lattice_epsilon(math.sqrt(count), self.stddev, count, self.delta)
            for count in (shape[0], shape[0] * m, shape[0] * shape[1] * shape[2])
        )
        return LocalEpsilon(one, some, whole, m, self.delta)

    def perturb(self, images: NDArray[np.uint8], stream: Stream) -> NDArray[np.float64]:
        """Discrete Gaussian noise on a lattice of 2^24 points a standard deviation."""
        checked(images)
        return add_gaussian(images / WHITE, self.stddev, stream)

    def describe(self) -> str:
        """One line."""
        return f"Gaussian noise of standard deviation {self.stddev:g} on each pixel and channel"


@dataclass(frozen=True)
class Pixelate(LocalMechanism):
    """Means of blocks of `block`×`block` pixels, with Laplace noise of this scale (Fan 2018, DBSec, DP-Pix).

    A pixel moves its block's mean by at most 1/block², so ε for m pixels is C·m/(block²·scale), and ε per
    image is C·(number of blocks)/scale: that of all pixels together.
    """

    block: int
    scale: float

    def __post_init__(self) -> None:
        positive("scale", self.scale)
        if self.block < 1:
            raise PlanError(f"a block has at least 1 pixel a side, not {self.block}")

    @classmethod
    def for_budget(cls, epsilon: float, *, block: int, m: int, channels: int) -> Pixelate:
        """The least noise at which m pixels are protected with ε."""
        positive("epsilon", epsilon)
        if min(block, m, channels) < 1:
            raise PlanError(f"block = {block}, m = {m} and channels = {channels} must be at least 1")
        return cls(block, rounded(Fraction(channels * m, block * block) / Fraction(epsilon)))

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
        m = neighbourhood(m, shape)
        pixel = Fraction(shape[0], self.block**2) / Fraction(self.scale)
        whole = shape[0] * rows * columns / Fraction(self.scale)
        return LocalEpsilon(rounded(pixel), rounded(m * pixel), rounded(whole), m, 0.0)

    def perturb(self, images: NDArray[np.uint8], stream: Stream) -> NDArray[np.float64]:
        """Discrete Laplace noise on the sum of each block, which is a whole number."""
        shape = checked(images)
        rows, columns = self._blocks(shape)
        side = self.block
        sums = images.reshape(len(images), shape[0], rows, side, columns, side).sum((3, 5), dtype=np.int64)
        noisy = sums + discrete_laplace(Fraction(self.scale) * (WHITE * side * side), sums.shape, stream)
        means = noisy / (WHITE * side * side)
        return means.repeat(side, axis=2).repeat(side, axis=3)

    def describe(self) -> str:
        """One line."""
        return f"means of {self.block}×{self.block} blocks with Laplace noise of scale {self.scale:g}"
