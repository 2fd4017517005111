# SPDX-License-Identifier: Apache-2.0
"""The price of integers, against sums over the true distributions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from confide.privacy.discrete import distance, epsilon_besides


def test_noise_on_integers_is_as_near_to_a_rounded_gaussian_as_stated() -> None:
    """Oracle: distance and divergence of one coordinate by summation; Pinsker for many coordinates."""
    std = 128
    k = np.arange(-12 * std - 1, 12 * std + 2)
    p = np.exp(-(k**2) / (2.0 * std**2))
    p /= p.sum()
    rounded = stats.norm.cdf((k + 0.5) / std) - stats.norm.cdf((k - 0.5) / std)
    assert 0.5 * np.abs(p - rounded).sum() <= distance(1, std)
    seen = rounded > 1e-30
    divergence = float((p[seen] * np.log(p[seen] / rounded[seen])).sum())
    for coordinates in (1, 10**4, 10**8):
        assert math.sqrt(coordinates * divergence / 2) <= distance(coordinates, std) * (1 + 1e-3)


def test_epsilon_pays_for_the_distance_out_of_delta() -> None:
    """Oracle: the δ left, from the inverse of `spends`, must satisfy δ' + (1 + e^ε)·t ≤ δ."""

    def spends(delta: float) -> float:
        return 1.0 - math.log10(delta) / 10

    found = epsilon_besides(spends, 1e-5, 1e-7)
    left = 10 ** (10 * (1.0 - found))
    assert found > spends(1e-5)
    assert left + (1 + math.exp(found)) * 1e-7 <= 1e-5
    assert epsilon_besides(spends, 1e-5, 0.0) == spends(1e-5)
    assert epsilon_besides(spends, 1e-5, 1e-5) == math.inf
    assert epsilon_besides(lambda _: math.inf, 1e-5, 1e-12) == math.inf
    assert epsilon_besides(spends, 1e-5, math.nan) == math.inf


def test_known_figures() -> None:
    assert (1 + math.exp(8)) * distance(10**10) == pytest.approx(3.2e-8, rel=0.02)
