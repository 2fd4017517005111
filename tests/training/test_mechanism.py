# SPDX-License-Identifier: Apache-2.0
"""Moments of the released noise, and how batches are drawn, measured through the mechanism of a real run."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from confide.errors import PlanError
from confide.mechanisms.clipping import AdaptiveClipping, FlatClipping
from confide.mechanisms.keys import RunKey
from confide.privacy.plan import PrivacyPlan, Release
from confide.privacy.schemes import FixedSizeSampling, FullBatch
from confide.training.contribution import FloatContribution
from confide.training.mechanism import PrivateMechanism, with_releases
from confide.training.physical import Work
from confide.training.step import private_steps

SIGMA, CLIP, UNITS = 1.7, 0.3, 40


class Idle(nn.Module):
    """Two parameters whose gradients are zero, whatever the data."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.zeros(size))
        self.b = nn.Parameter(torch.zeros(size))

    def forward(self, x: Tensor) -> Tensor:
        return x[:, 0] * 0 + (self.a[0] + self.b[0]) * 0


def idle_loss(model: nn.Module, batch: Any) -> Tensor:
    return model(batch[0])


def noise_of(rate: float, size: int, steps: int, **given: Any) -> Tensor:
    """What zero-gradient steps add to the sums: (steps, 2, size), divided by nothing."""
    model = Idle(size)
    plan = PrivacyPlan(SIGMA, rate, steps, 1e-5, UNITS)
    seen: list[Tensor] = []

    class Taking(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            seen.append(torch.stack([model.a.grad, model.b.grad]).double() * plan.expected_batch_size)

    optimizer = Taking(model.parameters(), lr=1.0)
    rows = (torch.randn(UNITS, 3), torch.zeros(UNITS))
    list(
        private_steps(
            model,
            optimizer,
            rows,
            plan,
            loss=idle_loss,
            clip_norm=CLIP,
            release_loss=False,
            work=Work(method="vmap"),
            **given,
        )
    )
    return torch.stack(seen)


@pytest.mark.parametrize("rate", [1e-9, 0.1, 1.0], ids=["empty", "some", "everybody"])
def test_the_sum_carries_the_stated_variance_whatever_the_realised_batch(rate: float) -> None:
    """4·10⁶ draws: the variance deviates by 7e-4 of itself, so 0.5 % is 7 deviations: false alarm 2e-12."""
    drawn = noise_of(rate, 100_000, 20)
    assert drawn.var() == pytest.approx((SIGMA * CLIP) ** 2, rel=0.005)
    assert abs(drawn.mean()) < 5 * SIGMA * CLIP / math.sqrt(drawn.numel())  # false alarm 6e-7
    sizes = drawn.var(2)
    assert sizes.std() < 3 * math.sqrt(2 / 100_000) * (SIGMA * CLIP) ** 2  # no step or parameter differs


def test_noise_of_steps_and_parameters_is_uncorrelated() -> None:
    """190 pairs of 20 vectors of 10⁵ numbers: below 6/√d, false alarm 4e-7."""
    drawn = noise_of(0.5, 100_000, 10).reshape(20, -1)
    table = torch.corrcoef(drawn).fill_diagonal_(0)
    assert table.abs().max() < 6 / math.sqrt(100_000)
    # Neighbouring coordinates neither.
    shifted = torch.corrcoef(torch.stack([drawn[:, :-1].reshape(-1), drawn[:, 1:].reshape(-1)]))[0, 1]
    assert abs(shifted) < 5 / math.sqrt(drawn.numel())


def test_hardened_noise_has_the_same_variance() -> None:
    """2·10⁴ draws: deviation of the variance 1 %; 5 % is 5 of them: false alarm 6e-7."""
    from confide.training.integers import released_numbers

    model = Idle(1000)
    plan = replace(PrivacyPlan(SIGMA, 1e-9, 10, 1e-5, UNITS), integers=released_numbers(model, 0))
    mechanism = PrivateMechanism(plan, FlatClipping(CLIP), RunKey.from_os())
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    drawn = torch.cat(
        [
            value.reshape(-1)
            for step in range(10)
            for value in mechanism.release(step, mechanism.nothing(parameters)).gradients.values()
        ]
    )
    assert (drawn * plan.expected_batch_size).var() == pytest.approx((SIGMA * CLIP) ** 2, rel=0.05)


def test_released_statistics_carry_their_own_noise_and_sensitivity() -> None:
    """3000 releases of zero: deviation of the variance 2.6 %; 15 % is 5.8 of them: false alarm 7e-9."""
    plan = with_releases(PrivacyPlan(SIGMA, 0.5, 10, 1e-5, UNITS), AdaptiveClipping(CLIP), loss=True)
    mechanism = PrivateMechanism(plan, AdaptiveClipping(CLIP), RunKey.from_os())
    found = []
    for step in range(3000):
        out = mechanism.release(step, mechanism.nothing({"w": torch.zeros(1)}))
        assert out.loss is not None and out.unclipped is not None
        found.append((out.loss, out.unclipped - 0.5))
    loss, unclipped = np.array(found).T * 20
    assert loss.var() == pytest.approx((30 * SIGMA * 4.0) ** 2, rel=0.15)
    assert unclipped.var() == pytest.approx((10 * SIGMA * 0.5) ** 2, rel=0.15)
    assert abs(np.corrcoef(loss, unclipped)[0, 1]) < 5 / math.sqrt(3000)


def test_batches_have_the_sizes_and_pairs_of_poisson_sampling() -> None:
    """20,000 steps of 50 units at q = 0.1. Every statement below within 5 of its own deviations."""
    steps, n, q = 20_000, 50, 0.1
    mechanism = PrivateMechanism(PrivacyPlan(1.0, q, steps, 1e-5, n), FlatClipping(1.0), RunKey.from_os())
    present = np.zeros((steps, n))
    for step in range(steps):
        present[step, mechanism.units(step, n)] = 1
    deviation = math.sqrt(q * (1 - q) / steps)
    assert np.abs(present.mean(0) - q).max() < 5 * deviation  # 50 of 6e-7
    sizes = present.sum(1)
    variance = n * q * (1 - q)
    # Kurtosis of a binomial is 3 + (1 − 6q(1−q))/(n·q(1−q)).
    error = math.sqrt((2 + (1 - 6 * q * (1 - q)) / variance) / steps)
    assert sizes.var() == pytest.approx(variance, rel=5 * error)
    pairs = np.corrcoef(present.T)
    np.fill_diagonal(pairs, 0)
    assert np.abs(pairs).max() < 5.5 / math.sqrt(steps)  # 1225 pairs of 4e-8
    assert abs(np.corrcoef(sizes[:-1], sizes[1:])[0, 1]) < 5 / math.sqrt(steps)


def test_fixed_size_and_full_batches_are_what_they_say() -> None:
    steps, n = 2000, 30
    fixed = PrivacyPlan(1.0, 0.2, steps, 1e-5, n, sampling=FixedSizeSampling(6, n))
    mechanism = PrivateMechanism(fixed, FlatClipping(1.0), RunKey.from_os())
    counts = np.zeros(n)
    for step in range(steps):
        chosen = mechanism.units(step, n)
        assert len(set(chosen)) == 6
        counts[chosen] += 1
    # 30 counts of Bin(2000, 0.2), deviation 17.9: within 5.5 of them, false alarm 1e-6.
    assert np.abs(counts - 400).max() < 5.5 * 17.9
    with pytest.raises(PlanError, match="30 units"):
        mechanism.units(0, 31)
    everybody = PrivacyPlan(1.0, 1.0, 5, 1e-5, n, sampling=FullBatch())
    assert len(PrivateMechanism(everybody, FlatClipping(1.0), RunKey.from_os()).units(0, n)) == n


def test_the_released_values_are_divided_by_the_expected_size_of_the_plan() -> None:
    plan = PrivacyPlan(1e-3, 0.5, 1, 1e-5, UNITS)
    mechanism = PrivateMechanism(plan, FlatClipping(1e-3), RunKey.from_os())
    contribution = FloatContribution.nothing({"w": torch.zeros(3)})
    contribution.add({"w": torch.full((3,), 40.0)}, torch.zeros(1), torch.ones(1, 1))
    assert torch.allclose(mechanism.release(0, contribution).gradients["w"], torch.full((3,), 2.0), atol=1e-5)


def test_a_plan_that_releases_the_wrong_statistics_is_refused() -> None:
    plan = PrivacyPlan(1.0, 0.5, 1, 1e-5, UNITS)
    with pytest.raises(PlanError, match="accuracy"):
        PrivateMechanism(
            replace(plan, releases=(Release("accuracy", 30.0),)), FlatClipping(1.0), RunKey.from_os()
        )
    with pytest.raises(PlanError, match="clip-fraction"):
        PrivateMechanism(plan, AdaptiveClipping(1.0), RunKey.from_os())
