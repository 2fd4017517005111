# SPDX-License-Identifier: Apache-2.0
"""No unit contributes more than the stated sensitivity, whatever its gradient is."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from confide.errors import PlanError
from confide.mechanisms.clipping import (
    AdaptiveClipping,
    AutomaticClipping,
    Clipping,
    FlatClipping,
    PerLayerClipping,
)
from confide.privacy.plan import PrivacyPlan
from confide.privacy.releases import gradient_share

PER_LAYER = PerLayerClipping((("a", 0.5), ("b", 2.0), ("c", 1.0)))
ALL: list[tuple[Clipping, int]] = [
    (FlatClipping(1.5), 1),
    (AutomaticClipping(1.5, 0.01), 1),
    (AdaptiveClipping(1.5), 1),
    (PER_LAYER, 3),
]
NORM = st.one_of(st.floats(0, 1e-3), st.floats(0, 1e300), st.sampled_from([0.0, 1.5, math.inf, math.nan]))


@pytest.mark.parametrize("clipping, groups", ALL, ids=lambda value: type(value).__name__)
@given(data=st.data())
def test_a_contribution_never_exceeds_the_sensitivity(
    clipping: Clipping, groups: int, data: st.DataObject
) -> None:
    rows = data.draw(st.lists(st.lists(NORM, min_size=groups, max_size=groups), min_size=1, max_size=5))
    norms = torch.tensor(rows, dtype=torch.float64)
    factors = clipping.factors(norms)
    assert factors.shape == norms.shape
    assert factors.dtype == torch.float64
    assert torch.isfinite(factors).all()
    assert (factors >= 0).all()
    finite = torch.isfinite(norms).all(1)
    assert (factors[~finite] == 0).all()
    contribution = torch.linalg.vector_norm(norms[finite] * factors[finite], dim=1)
    assert (contribution <= clipping.sensitivity).all()


def test_flat_factors() -> None:
    factors = FlatClipping(2.0).factors(torch.tensor([[0.0], [1.0], [2.0], [8.0]]))
    torch.testing.assert_close(factors[:, 0], torch.tensor([1, 1, 1, 0.25]).double(), rtol=1e-10, atol=0)
    assert (factors[:2] == 1).all()  # an unclipped unit is seen to be unclipped


def test_automatic_factors_normalise() -> None:
    norms = torch.tensor([[0.0], [0.5], [9.5]], dtype=torch.float64)
    factors = AutomaticClipping(1.0, 0.5).factors(norms)
    expected = torch.tensor([2.0, 1.0, 0.1], dtype=torch.float64)
    torch.testing.assert_close(factors[:, 0], expected, rtol=1e-10, atol=0)


def test_an_empty_batch_has_no_factors() -> None:
    assert FlatClipping(1.0).factors(torch.zeros(0, 1)).shape == (0, 1)


def test_layers_are_clipped_each_and_claimed_together() -> None:
    names = ["a.weight", "a.bias", "b.weight", "c.weight"]
    assert PER_LAYER.groups(names) == (0, 0, 1, 2)
    assert PER_LAYER.sensitivity == pytest.approx(math.sqrt(0.25 + 4 + 1))
    factors = PER_LAYER.factors(torch.tensor([[1.0, 1.0, 4.0]]))
    torch.testing.assert_close(factors, torch.tensor([[0.5, 1.0, 0.25]]).double(), rtol=1e-10, atol=0)
    with pytest.raises(PlanError, match=r"d\.weight"):
        PER_LAYER.groups(["d.weight"])
    even = PerLayerClipping.even(3.0, names)
    assert even.sensitivity == pytest.approx(3.0)
    assert len(even.bounds) == 3


@pytest.mark.parametrize("bound", [0.0, -1.0, math.nan, math.inf])
def test_an_impossible_bound_is_refused(bound: float) -> None:
    for make in (FlatClipping, AutomaticClipping, AdaptiveClipping, lambda b: PerLayerClipping((("a", b),))):
        with pytest.raises(PlanError, match="clip norm"):
            make(bound)


@pytest.mark.parametrize(
    "options",
    [
        {"quantile": 0.0},
        {"quantile": 1.0},
        {"rate": 0.0},
        {"noise_ratio": 1.0},
        {"lowest": 2.0},
        {"highest": 0.5},
    ],
)
def test_impossible_adaptation_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(PlanError):
        AdaptiveClipping(1.0, **options)


def test_layers_need_one_bound_each() -> None:
    for bounds in ((), (("a", 1.0), ("a", 2.0))):
        with pytest.raises(PlanError, match="one bound for each layer"):
            PerLayerClipping(bounds)


def test_the_adaptive_bound_finds_the_quantile() -> None:
    norms = torch.rand(1001, 1, dtype=torch.float64) * 10
    clipping = AdaptiveClipping(0.1, quantile=0.7)
    for _ in range(200):
        unclipped = float((clipping.factors(norms) >= 1).double().mean())
        clipping = clipping.updated(unclipped)
    assert clipping.bound == pytest.approx(float(norms.quantile(0.7)), rel=0.02)


def test_the_adaptive_bound_stays_in_its_range_whatever_is_released() -> None:
    for share in (-1e9, -0.5, 0.0, 0.5, 1.0, 1e9):
        clipping = AdaptiveClipping(1.0, lowest=0.5, highest=2.0)
        for _ in range(100):
            clipping = clipping.updated(share)
        assert 0.5 <= clipping.bound <= 2.0


def test_the_adaptive_statistic_is_paid_from_the_steps_budget() -> None:
    release = AdaptiveClipping(1.0, noise_ratio=10.0).release(2.0)
    assert (release.name, release.noise_multiplier) == ("clip-fraction", 20.0)
    assert gradient_share(2.0, (release,)) == pytest.approx(2.0 / math.sqrt(1 - 0.01))
    plan = PrivacyPlan(2.0, 0.1, 10, 1e-5, 1000, releases=(release,))
    assert plan.epsilon() == PrivacyPlan(2.0, 0.1, 10, 1e-5, 1000).epsilon()
    assert FlatClipping(1.0).release(2.0) is None
    assert FlatClipping(1.0).updated(0.3) == FlatClipping(1.0)
