# SPDX-License-Identifier: Apache-2.0
"""The plain ResNet-9: its layout, and that it keeps samples apart."""

from __future__ import annotations

import pytest
import torch

from confide.models import ResNet9


def test_the_published_layout_has_about_two_and_a_half_million_parameters() -> None:
    count = sum(p.numel() for p in ResNet9(3, 10, (64, 128, 256)).parameters())
    # 3×3 convolutions 3-64-128-(128-128)-256-256-(256-256), a scale and shift per channel, the linear layer.
    pairs = [(3, 64), (64, 128), (128, 128), (128, 128), (128, 256), (256, 256), (256, 256), (256, 256)]
    assert count == sum(9 * i * o + 3 * o for i, o in pairs) + 256 * 10 + 10


@pytest.mark.parametrize("scale_norm", [False, True])
@pytest.mark.parametrize("norm_first", [False, True])
def test_samples_stay_apart(norm_first: bool, scale_norm: bool) -> None:
    model = ResNet9(1, 4, (4, 8, 8), norm_first=norm_first, scale_norm=scale_norm, activation="mish").train()
    x = torch.rand(3, 1, 28, 28)
    other = x.clone()
    other[1:] *= 3
    assert torch.equal(model(x)[0], model(other)[0])
    assert not torch.equal(model(x)[1], model(other)[1])


def test_normalisation_stands_after_the_activation() -> None:
    order = [name for name, _ in ResNet9(1, 2).conv2.named_children()]
    assert order == ["conv", "act", "norm", "pool"]
    order = [name for name, _ in ResNet9(1, 2, norm_first=True).conv2.named_children()]
    assert order == ["conv", "norm", "act", "pool"]
