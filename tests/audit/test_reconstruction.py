# SPDX-License-Identifier: Apache-2.0
"""The bound on reconstruction against known values; an inversion that works without DP and not under it."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import norm
from torch import Tensor, nn

from confide.audit.reconstruction import invert_gradient, observed_gradient, reconstruction_bound
from confide.errors import InputError, PlanError
from confide.mechanisms.clipping import FlatClipping
from confide.privacy.plan import PrivacyPlan
from confide.privacy.schemes import FixedSizeSampling, FullBatch
from confide.training.losses import cross_entropy


@pytest.mark.parametrize(
    ("sigma", "known"),
    [(1.0, {0.1: 0.55, 0.01: 0.19, 1e-3: 0.051}), (4.0, {0.1: 0.159, 0.01: 0.0206, 1e-3: 0.0025})],
)
def test_pneumonia(sigma: float, known: dict[float, float]) -> None:
    plan = PrivacyPlan(sigma, 128 / 5216, 2038, 1e-5, 5216)
    for prior, wanted in known.items():
        # Known values have two digits; ours is 0.186 where 0.19 is known.
        assert reconstruction_bound(plan, prior) == pytest.approx(wanted, rel=0.025)


def test_a_full_batch_by_its_closed_form() -> None:
    plan = PrivacyPlan(6.0, 1.0, 9, 1e-5, 1000, sampling=FullBatch())
    for prior in (1e-4, 0.02, 0.5):
        exact = norm.cdf(norm.ppf(prior) + math.sqrt(9) / 6.0)
        assert reconstruction_bound(plan, prior) == pytest.approx(exact, rel=1e-9)


def test_more_noise_protects_more_and_nothing_protects_from_a_good_guess() -> None:
    plans = [PrivacyPlan(sigma, 0.02, 200, 1e-5, 1000) for sigma in (0.7, 1.5, 6.0)]
    bounds = [reconstruction_bound(plan, 0.01) for plan in plans]
    assert bounds[0] > bounds[1] > bounds[2] > 0.01
    with pytest.raises(InputError, match="prior probability"):
        reconstruction_bound(plans[0], 0.0)
    with pytest.raises(PlanError, match="no known privacy profile"):
        reconstruction_bound(
            PrivacyPlan(1.0, 0.1, 2, 1e-5, 1000, sampling=FixedSizeSampling(100, 1000)), 0.01
        )


def _network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(1, 8, 5, padding=2, stride=2),
        nn.Sigmoid(),
        nn.Conv2d(8, 8, 5, padding=2, stride=2),
        nn.Sigmoid(),
        nn.Flatten(),
        nn.Linear(8 * 9, 4),
    )


def _blob() -> Tensor:
    line = torch.linspace(-1, 1, 12)
    y, x = torch.meshgrid(line, line, indexing="ij")
    return (
        torch.exp(-((x - 0.3) ** 2 + (y + 0.2) ** 2) * 6) - torch.exp(-((x + 0.5) ** 2 + (y - 0.4) ** 2) * 9)
    )[None, None]


@pytest.mark.parametrize("sigma", [None, 1e-6, 1.0])
def test_inversion_succeeds_without_noise_and_fails_under_the_plan(sigma: float | None) -> None:
    model, truth = _network(), (_blob(), torch.tensor([1]))
    plan = None if sigma is None else PrivacyPlan(sigma, 0.1, 10, 1e-5, 100)
    found = invert_gradient(
        model, cross_entropy, observed_gradient(model, cross_entropy, truth, plan), truth, steps=300
    )
    if sigma == 1.0:
        # No better than to answer with plain grey; a random image correlates by less than 0.35 (4
        # deviations).
        assert found.psnr < found.prior_psnr and abs(found.correlation) < 0.35
    else:
        # Clipping without noise does not help: the direction says it all.
        assert found.correlation > 0.9 and found.psnr > found.prior_psnr + 5


def test_what_is_observed_under_a_plan_is_the_clipped_gradient_and_its_noise() -> None:
    model, truth = _network(), (_blob(), torch.tensor([1]))
    plain = torch.cat([v.flatten() for v in observed_gradient(model, cross_entropy, truth).values()])
    quiet = PrivacyPlan(1e-9, 0.1, 10, 1e-5, 100)
    clipped = torch.cat(
        [
            v.flatten()
            for v in observed_gradient(model, cross_entropy, truth, quiet, FlatClipping(0.01)).values()
        ]
    )
    assert float(clipped.norm()) == pytest.approx(0.01, rel=1e-4)
    torch.testing.assert_close(clipped / clipped.norm(), plain / plain.norm(), rtol=1e-3, atol=1e-5)
    loud = observed_gradient(
        model, cross_entropy, truth, PrivacyPlan(3.0, 0.1, 10, 1e-5, 100), FlatClipping(2.0)
    )
    noise = torch.cat([v.flatten() for v in loud.values()])
    # 2,100 numbers of deviation 6: their own lies within 8% but for a probability of 2e-7.
    assert float(noise.std()) == pytest.approx(6.0, rel=0.08)
