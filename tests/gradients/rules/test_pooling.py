# SPDX-License-Identifier: Apache-2.0
"""The faster layout of max pooling against torch's own: the same values, and the same one of equal values."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from confide.gradients.engine import clipped_gradient
from confide.gradients.rules.pooling import MaxPool2d

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
