# SPDX-License-Identifier: Apache-2.0
"""What every local mechanism for images is, and what it states."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from confide.errors import PlanError
from confide.mechanisms.keys import Stream

Shape = tuple[int, int, int]
M = TypeVar("M", bound="LocalMechanism")
WHITE = 255


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


def calibrated(make: Callable[[float], M], spent: Callable[[M], float], epsilon: float) -> M:
    """The mechanism of the least scale, rounded up, at which `spent` is within ε.

    Args:
        make: Builds the mechanism of a scale; more noise must spend less.
        spent: What of the mechanism's ε is meant.
    """
    positive("epsilon", epsilon)
    low, high = 0.0, 1.0
    while spent(make(high)) > epsilon:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        if not low < middle < high:
            break
        low, high = (low, middle) if spent(make(middle)) <= epsilon else (middle, high)
    return make(high)


def positive(name: str, value: float) -> None:
    """Refuse a scale that is no positive number."""
    if not (math.isfinite(value) and value > 0):
        raise PlanError(f"{name} must be positive and finite, not {value}")


def probability(name: str, value: float) -> None:
    """Refuse what does not lie between 0 and 1."""
    if not 0 < value < 1:
        raise PlanError(f"{name} lies between 0 and 1, not {value}")


def checked(images: NDArray[np.uint8]) -> Shape:
    """(C, H, W) of a batch of 8-bit images."""
    if images.dtype != np.uint8 or images.ndim != 4:
        raise PlanError(
            f"local mechanisms take uint8 images (N, C, H, W), not {images.dtype} of shape {images.shape}",
            why="The bounds of the pixels decide ε, and only 8-bit pixels have them for sure.",
        )
    return images.shape[1], images.shape[2], images.shape[3]


def neighbourhood(m: int, shape: Shape) -> int:
    """m, if an image has so many pixels."""
    pixels = shape[1] * shape[2]
    if not 1 <= m <= pixels:
        raise PlanError(f"a neighbourhood has 1 to {pixels} pixels, not {m}")
    return m


def rounded(value: Fraction) -> float:
    """The least float that is not below a fraction."""
    found = float(value)
    return found if Fraction(found) >= value else math.nextafter(found, math.inf)
