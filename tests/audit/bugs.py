# SPDX-License-Identifier: Apache-2.0
"""Bugs of the private mechanism that an audit has to find, as patches of the real code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

import confide.training.mechanism as mechanism
from confide.mechanisms.noise import GaussianNoise

Break = Callable[[pytest.MonkeyPatch], None]


def less_noise(factor: float) -> Break:
    """The mechanism adds its noise divided by a factor."""

    def broken(patch: pytest.MonkeyPatch) -> None:
        real = GaussianNoise
        patch.setattr(mechanism, "GaussianNoise", lambda stddev, ranks=1: real(stddev / factor, ranks))

    return broken


def everybody(patch: pytest.MonkeyPatch) -> None:
    """Each unit is in each batch, whatever the plan says."""
    patch.setattr(mechanism, "draw", lambda sampling, units, stream: np.arange(units, dtype=np.int64))


def one_noise(patch: pytest.MonkeyPatch) -> None:
    """The same noise in each step: a re-seeded generator."""
    real = mechanism.PrivateMechanism._stream
    patch.setattr(mechanism.PrivateMechanism, "_stream", lambda self, step: real(self, 0))


def unclipped(patch: pytest.MonkeyPatch) -> None:
    """Gradients are clipped to three times the bound that the noise is scaled to."""
    from confide.mechanisms.clipping import FlatClipping

    real = FlatClipping._scale
    patch.setattr(
        FlatClipping, "_scale", lambda self, norms: real(replace(self, bound=3 * self.bound), norms)
    )
