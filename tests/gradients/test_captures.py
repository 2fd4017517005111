# SPDX-License-Identifier: Apache-2.0
"""Small gradients side by side, and a clip norm of its own for each layer, against Python floats."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from confide.gradients.captures import SMALL, Instantiated, SideBySide
from confide.gradients.engine import clipped_gradient
from confide.gradients.reference import per_sample_gradients
from confide.mechanisms.clipping import PerLayerClipping


def test_side_by_side_is_each_by_itself() -> None:
    shapes = [(3, 2), (3 * SMALL + 5,), (5,), (2 * SMALL,), (1,)]
    parts = [torch.randn(4, *shape) for shape in shapes]
    beside = SideBySide([Instantiated(part) for part in parts])
    norms = [sum(float(v) ** 2 for v in row.flatten()) for part in parts for row in part]
    assert beside.squared_norms().t().flatten().tolist() == pytest.approx(norms, rel=1e-6)
    factors = torch.rand(4, len(parts), dtype=torch.float64)
    factors[1] = 0
    for part in parts:
        part[1] = float("nan")  # a unit that must add nothing
    for given in (factors, factors[:, :1]):
        beside = SideBySide([Instantiated(part) for part in parts])
        totals = beside.small_sums(given, torch.tensor([1]))
        assert list(totals) == [0, 2, 4]
        for number, total in totals.items():
            own = given[:, number if given.shape[1] > 1 else 0]
            expected = sum(float(own[u]) * parts[number][u].double().flatten() for u in (0, 2, 3))
            assert torch.allclose(total, expected)


def test_a_clip_norm_for_each_layer() -> None:
    torch.manual_seed(0)  # weights and images; the check is deterministic
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(64, 40)).double()
    images = torch.randn(5, 2, 6, 6, dtype=torch.float64)

    def loss(model: nn.Module, batch: Any) -> Tensor:
        return model(batch[0]).square().sum(1)

    each = per_sample_gradients(model, loss, (images,))
    sizes = [value[0].numel() for value in each.values()]
    assert min(sizes) < SMALL < max(sizes)
    layers = {"0": ("0.weight", "0.bias"), "1": ("1.weight", "1.bias"), "3": ("3.weight", "3.bias")}
    norms = {
        layer: [sum(float(each[n][row].square().sum()) for n in names) ** 0.5 for row in range(5)]
        for layer, names in layers.items()
    }
    bounds = {layer: sorted(values)[2] * 0.9 for layer, values in norms.items()}
    clipping = PerLayerClipping(tuple(bounds.items()))
    out = clipped_gradient(model, loss, (images,), clipping=clipping, method="book-keeping")
    for layer, names in layers.items():
        for name in names:
            expected = torch.zeros_like(each[name][0])
            for row in range(5):
                expected += each[name][row] * min(1.0, bounds[layer] / norms[layer][row])
            assert torch.allclose(out.sums[name], expected, rtol=1e-8, atol=1e-10), name
