# SPDX-License-Identifier: Apache-2.0
"""Layers and parameters as torch gives them; a walk is shared within one pass and forgotten after it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from confide.errors import UnsupportedLayerError
from confide.gradients.engine import clipped_gradient
from confide.gradients.walking import named_layers, trainable, walked_once


class Tied(nn.Module):
    """A shared layer, a shared parameter, a frozen one, an empty slot, a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 4))
        self.first = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
        self.again = self.first[0]
        self.nothing = None
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first[0].weight
        self.register_parameter("empty", None)
        self.last = nn.Linear(4, 2)
        self.last.bias.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.second(self.first(x + self.token)))


def test_as_torch_gives_them() -> None:
    model = Tied()
    assert named_layers(model) == list(model.named_modules())
    expected = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert list(trainable(model)) == list(expected)
    assert all(trainable(model)[name] is p for name, p in expected.items())


def test_a_walk_is_of_its_model_and_pass() -> None:
    model, other = Tied(), Tied()
    with walked_once(model):
        model.add_module("late", nn.Linear(2, 2))
        assert "late" not in dict(named_layers(model))
        assert "late" in dict(named_layers(model, anew=True))
        assert named_layers(other) == list(other.named_modules())
    assert "late.weight" in trainable(model)


class Counting(nn.Module):
    """Gets a layer with a buffer while it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        late = nn.Identity()
        late.register_buffer("mean", x.detach().mean(0))
        self.late = late
        return self.linear(x)


def test_a_buffer_of_a_layer_that_comes_during_the_pass_is_seen() -> None:
    with pytest.raises(UnsupportedLayerError, match=r"late\.mean"):
        clipped_gradient(Counting(), lambda m, x: m(x)[:, 0], torch.randn(4, 3), clip_norm=1.0)
