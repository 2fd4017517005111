# SPDX-License-Identifier: Apache-2.0
"""Circular harmonics turn as `harmonic` says, and stay below what the grid can carry."""

from __future__ import annotations

import math

import numpy as np
import pytest

from confide.equivariant import Element
from confide.equivariant.harmonics import harmonic, ring_functions


@pytest.mark.parametrize("frequency", [0, 1, 2, 5])
@pytest.mark.parametrize("element", [Element(0.3), Element(2.1, True), Element(0.0, True)])
def test_harmonics_turn_with_the_plane(frequency: int, element: Element) -> None:
    angle = np.random.default_rng().uniform(0, 2 * math.pi, 6)
    moved = (math.pi - angle if element.mirrored else angle) + element.angle

    def waves(at: np.ndarray) -> np.ndarray:
        return np.stack([np.cos(frequency * at), np.sin(frequency * at)])[: 2 if frequency else 1]

    np.testing.assert_allclose(harmonic(frequency, element) @ waves(angle), waves(moved), atol=1e-12)


@pytest.mark.parametrize("side", [1, 3, 5, 7])
def test_rings_carry_two_frequencies_below_their_pixels(side: int) -> None:
    found = ring_functions(side)
    assert {f.radius for f in found} == set(range((side - 1) // 2 + 1))
    for f in found:
        assert f.frequency <= 2 * f.radius
        assert f.values.shape == (2 if f.frequency else 1, side, side)
        if f.frequency:
            assert (f.values[:, side // 2, side // 2] == 0).all()


def test_a_three_by_three_kernel_has_six_planar_functions() -> None:
    assert sum(len(f.values) for f in ring_functions(3)) == 6


def test_a_quarter_turn_of_the_samples_is_a_quarter_turn_of_the_wave() -> None:
    for f in ring_functions(5):
        turned = np.rot90(f.values, 1, (1, 2))  # values at x are those that stood at g⁻¹x
        back = np.einsum("mn,nxy->mxy", harmonic(f.frequency, Element(-math.pi / 2)), f.values)
        np.testing.assert_allclose(turned, back, atol=1e-12)
