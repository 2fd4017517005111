# SPDX-License-Identifier: Apache-2.0
"""The faster layout of max pooling against torch's own: the same values, and the same one of equal values."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from confide.gradients.engine import clipped_gradient
from confide.gradients.grams import conv_norms
from confide.gradients.kernels import ConvShape
from confide.gradients.rules.pooling import MaxPool2d
from confide.gradients.tuning import fastest

POOLS = [
    {"kernel_size": 2},
    {"kernel_size": 3, "stride": 2, "padding": 1},
    {"kernel_size": (3, 2), "stride": (2, 1), "dilation": (1, 2), "ceil_mode": True},
]


@pytest.mark.parametrize("options", POOLS)
@pytest.mark.parametrize("channels", [3, 8, 11])
def test_pooling_is_torchs_own(
    options: dict[str, Any], channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)  # weights and images; the comparison is exact up to rounding
    # After the ReLU most windows hold several zeros, of which torch gives the first the gradient.
    model = nn.Sequential(nn.Conv2d(1, channels, 3), nn.ReLU(), nn.MaxPool2d(**options), nn.Flatten())
    images = torch.randn(4, 1, 11, 12)
    taken: list[int] = []
    forward: Any = MaxPool2d.forward

    def seen(*args: Any) -> Any:
        taken.append(1)
        return forward(*args)

    monkeypatch.setattr(MaxPool2d, "forward", staticmethod(seen))

    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        out = model(batch)
        return (out * torch.linspace(-1, 2, out.shape[1])).sum(1)

    found = clipped_gradient(model, loss, images, clip_norm=1e9, method="book-keeping")
    assert bool(taken) == (channels >= 8)
    values = loss(model, images)
    assert torch.equal(found.losses, values.detach())
    values.sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        assert torch.allclose(found.sums[name], parameter.grad, rtol=1e-4, atol=1e-4), name


def test_grams_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    x, grad = torch.randn(5, 2, 6, 6), torch.randn(5, 3, 6, 6)
    shape = ConvShape((1, 1), (1, 1), (1, 1), (0, 0), False, 1)
    monkeypatch.setattr("confide.gradients.grams._CACHED", 2 * 4 * 64**2)  # two samples
    weight = torch.zeros(3, 2, 3, 3)
    own = [shape.backward(grad[i : i + 1], x[i : i + 1], weight, (False, True))[1] for i in range(5)]
    expected = [float(g.double().square().sum()) for g in own]
    assert conv_norms(x, grad, shape, (3, 3)).tolist() == pytest.approx(expected, rel=1e-4)


def test_the_weight_of_a_work_counts() -> None:
    works = {"light": lambda: sum(range(1000)), "heavy": lambda: None}
    assert fastest(works, torch.device("cpu"), {"light": 0.0}) == "light"
