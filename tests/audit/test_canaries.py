# SPDX-License-Identifier: Apache-2.0
"""Canaries are what they are said to be, and real rows do not notice them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from confide.audit.canaries import (
    BANK,
    CODE,
    CanariedExamples,
    CanariedModel,
    CanaryLoss,
    canaried_clipping,
    canary_length,
    canary_share,
    gradient_canaries,
    pair,
)
from confide.errors import InputError
from confide.gradients.engine import clipped_gradient
from confide.mechanisms.clipping import AdaptiveClipping, FlatClipping, PerLayerClipping
from confide.training.examples import as_examples
from confide.training.losses import cross_entropy, dice


def _examples(
    included: list[bool], *, replace: bool = False, units: list[int] | None = None
) -> CanariedExamples:
    images, labels = torch.randn(5, 1, 4, 4), torch.tensor([0, 1, 0, 1, 1])
    base = as_examples((images, labels), units)
    flags = np.array(included)
    return CanariedExamples(base, *gradient_canaries(base, len(flags)), flags, replace=replace)


def test_canaries_come_on_top() -> None:
    examples = _examples([True, False, True])
    assert examples.n_units == 7
    rows, owner = examples.rows_of(np.arange(7))
    assert rows.tolist() == [0, 1, 2, 3, 4, CODE, CODE + 2] and owner.tolist() == list(range(7))
    assert examples.drawn.tolist() == [1, 0, 1]


def test_canaries_take_the_place_of_units() -> None:
    examples = _examples([True, False, True], replace=True)
    assert examples.n_units == 5
    assert examples.rows_of(np.arange(5))[0].tolist() == [CODE, 1, CODE + 2, 3, 4]
    assert examples.rows_of(np.array([1, 2]))[0].tolist() == [1, CODE + 2]
    with pytest.raises(InputError, match="6 canaries cannot take the place of 5"):
        _examples([True] * 6, replace=True)


def test_units_of_several_rows_stay_together() -> None:
    examples = _examples([True, True], units=[0, 1, 0, 1, 1])
    rows, owner = examples.rows_of(np.array([0, 2, 3]))
    assert rows.tolist() == [0, 2, CODE, CODE + 1] and owner.tolist() == [0, 0, 1, 2]


def test_a_batch_keeps_the_order_of_its_rows() -> None:
    examples = _examples([True, True])
    images, targets = examples.batch(np.array([CODE + 1, 3, CODE, 0]))
    real_images, real_targets = pair(examples.base.batch(np.array([3, 0])))
    assert targets.tolist() == [CODE + 1, int(real_targets[0]), CODE, int(real_targets[1])]
    assert torch.equal(images[[1, 3]], real_images) and not images[[0, 2]].any()
    empty = examples.batch(np.zeros(0, dtype=np.int64))
    assert empty[0].shape == (0, 1, 4, 4)


@pytest.mark.parametrize("method", ["auto", "vmap", "loop"])
def test_a_canary_is_one_clip_norm_in_its_own_direction_and_nowhere_else(method: str) -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 2))
    model = CanariedModel(network, 3)
    examples = _examples([True, True, True])
    clipping = FlatClipping(0.7)
    loss = CanaryLoss(cross_entropy, canary_length(clipping))
    out = clipped_gradient(
        model, loss, examples.batch(np.array([CODE + 1])), clipping=clipping, method=method
    )
    assert out.sums[BANK].flatten().tolist() == pytest.approx([0.0, 0.7, 0.0, 0.0], rel=1e-6)
    assert all(not value.any() for name, value in out.sums.items() if name != BANK)


def test_real_rows_have_their_own_gradient_and_none_in_the_bank() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 2))
    examples = _examples([True, True])
    batch = examples.base.batch(np.array([0, 3]))
    plain = clipped_gradient(network, cross_entropy, batch, clip_norm=0.7)
    loss = CanaryLoss(cross_entropy, 1e6)
    mixed = clipped_gradient(
        CanariedModel(network, 2), loss, examples.batch(np.array([0, 3, CODE + 1])), clip_norm=0.7
    )
    for name, value in plain.sums.items():
        torch.testing.assert_close(mixed.sums[f"network.{name}"], value, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(mixed.norms[:2], plain.norms, rtol=1e-5, atol=1e-7)


def test_canaries_among_masks() -> None:
    masks = torch.randint(0, 2, (4, 4, 4))
    base = as_examples((torch.randn(4, 1, 4, 4), masks))
    examples = CanariedExamples(base, *gradient_canaries(base, 2), np.array([True, True]))
    model = CanariedModel(nn.Conv2d(1, 2, 3, padding=1), 2)
    batch = examples.batch(np.array([1, CODE]))
    out = clipped_gradient(model, CanaryLoss(dice, 1e6), batch, clip_norm=1.0)
    assert out.sums[BANK].flatten().tolist() == pytest.approx([1.0, 0.0, 0.0])
    assert out.norms[1] == pytest.approx(1e6)


def test_per_layer_clipping_gets_a_layer_for_the_bank() -> None:
    clipping = PerLayerClipping((("0", 0.3), ("2", 0.4)))
    wider = canaried_clipping(clipping)
    assert isinstance(wider, PerLayerClipping)
    assert dict(wider.bounds) == pytest.approx({"network.0": 0.3, "network.2": 0.4, "bank": 0.5})
    assert canary_share(wider) == pytest.approx(math.sqrt(0.5))
    assert canary_share(FlatClipping(3.0)) == 1.0
    assert canaried_clipping(AdaptiveClipping(1.0)) == AdaptiveClipping(1.0)


def test_what_no_canary_fits_into() -> None:
    with pytest.raises(InputError, match="images, targets"):
        pair((torch.zeros(1), torch.zeros(1), torch.zeros(1)))
    with pytest.raises(InputError, match="integer targets"):
        pair((torch.zeros(1, 1), torch.zeros(1)))
    with pytest.raises(InputError, match="no room for canaries"):
        canary_length(FlatClipping(1e30))
