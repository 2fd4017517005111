# SPDX-License-Identifier: Apache-2.0
"""The search itself, on functions whose answer is known."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from confide.errors import PlanError
from confide.privacy.calibration import calibrate


@given(answer=st.floats(2e-3, 1e5), start=st.floats(1e-2, 1e4), target=st.floats(1e-3, 1e3))
def test_the_result_keeps_the_target_and_was_evaluated(answer: float, start: float, target: float) -> None:
    seen: dict[float, float] = {}

    def spends(sigma: float) -> float:
        seen[sigma] = target * answer / sigma
        return seen[sigma]

    found = calibrate(spends, target, start=start)
    assert seen[found] <= target
    assert answer * (1 - 1e-12) <= found <= answer * 1.0011
    assert len(seen) < 60


def test_a_step_shaped_loss_is_rounded_to_the_private_side() -> None:
    found = calibrate(lambda sigma: 1.0 if sigma >= 2.0 else 5.0, 1.0)
    assert 2.0 <= found <= 2.001


def test_no_noise_at_all_is_never_the_answer() -> None:
    assert calibrate(lambda sigma: 0.0, 1.0) >= 1e-3


def test_an_unreachable_target_is_refused() -> None:
    with pytest.raises(PlanError, match="no noise multiplier"):
        calibrate(lambda sigma: 1.0, 0.5)
