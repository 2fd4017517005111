# SPDX-License-Identifier: Apache-2.0
"""Circular harmonics on Gaussian rings: the planar functions that every steerable kernel is made of.

A planar function is R_ring(|x|) · Y_μ(angle of x) with Y_0 = 1 and Y_μ = (cos μφ, sin μφ). Sampled on a k×k
grid a ring of radius r can only tell 4r frequencies apart; higher ones alias into lower ones, so they are
cut off well below that. Weiler & Cesa (2019), arXiv:1911.08251.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from confide.equivariant.groups import Element
from confide.equivariant.representations import Array, rotation
from confide.errors import ConfigError

_CENTRE_WIDTH, _RING_WIDTH, _OUTER_WIDTH = 0.005, 0.6, 0.4  # of the Gaussians, in pixels
_LEAST_ENERGY = 1e-2  # functions that vanish on the grid are left out


@dataclass(frozen=True)
class RingFunction:
    """One ring and frequency, sampled: `values` is (1, k, k) for frequency 0, else (2, k, k)."""

    radius: float
    frequency: int
    values: Array


def harmonic(frequency: int, element: Element) -> Array:
    """D with Y(gx) = D Y(x) for Y = (cos, sin)(frequency · angle); the mirror sends an angle φ to π − φ."""
    if frequency == 0:
        return np.eye(1)
    return rotation(frequency * (element.angle + math.pi * element.mirrored), element.mirrored)


def ring_functions(kernel_size: int, frequency_cutoff: int | None = None) -> tuple[RingFunction, ...]:
    """The planar functions of a kernel, inner rings and low frequencies first.

    Args:
        kernel_size: Side k of the kernel, odd.
        frequency_cutoff: Highest frequency per pixel of radius; default: an anti-aliasing rule that
            allows frequency 2 on the outer ring.

    Raises:
        ConfigError: If the side is even, or the cut-off lies beyond the grid's band limit.
    """
    if not isinstance(kernel_size, int) or kernel_size < 1 or kernel_size % 2 == 0:
        raise ConfigError(
            f"a steerable kernel cannot have side {kernel_size!r}",
            why="Only an odd side has a centre pixel to turn about",
            remedy="Give an odd number such as 3 or 5.",
        )
    whole = frequency_cutoff is None or isinstance(frequency_cutoff, int)
    if not whole or not 0 <= (frequency_cutoff or 0) <= 4:
        raise ConfigError(
            f"frequency_cutoff {frequency_cutoff!r} lies beyond the grid's band limit",
            why="A ring of radius r carries frequencies up to 4r",
            remedy="Give a whole number from 0 to 4, or leave it out.",
        )
    half = (kernel_size - 1) // 2
    y, x = np.mgrid[half : -half - 1 : -1, -half : half + 1].astype(np.float64)
    distance, angle = np.hypot(x, y), np.arctan2(y, x)
    found: list[RingFunction] = []
    for radius in range(half + 1):
        width = _CENTRE_WIDTH if radius == 0 else _OUTER_WIDTH if radius == half else _RING_WIDTH
        profile = np.exp(-0.5 * ((distance - radius) / width) ** 2)
        for frequency in range(_highest(radius, half, frequency_cutoff) + 1):
            waves = [np.cos(frequency * angle), np.sin(frequency * angle)][: 2 if frequency else 1]
            values = np.stack(waves) * profile
            if frequency:
                values[:, distance < 0.5] = 0  # the centre has no angle
            if np.square(values).sum() > _LEAST_ENERGY:
                found.append(RingFunction(float(radius), frequency, values))
    return tuple(found)


def _highest(radius: int, outer: int, cutoff: int | None) -> int:
    """Highest frequency of a ring: twice its radius, one less at even radii, and 2 on the outer ring."""
    if radius == 0:
        return 0
    if cutoff is not None:
        return cutoff * radius
    return 2 if radius == outer else 2 * radius - (radius + 1) % 2
