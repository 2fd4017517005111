# SPDX-License-Identifier: Apache-2.0
"""What `method="auto"` falls back to, says so once, and what it refuses."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from confide.errors import LossError, UnsupportedLayerError
from confide.gradients.engine import clipped_gradient
from confide.gradients.rules import LAYERS, rule


class Bilinear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.form = nn.Bilinear(3, 3, 4)
        self.out = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.form(x, x))


class Sum(nn.Module):
    """A parameter met by an operation without a rule."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 4))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bi,ij->bj", x, self.weight)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.GRU(3, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.cells(x)[0]


class BatchSecond(nn.Module):
    """The batch cannot be told by its length when the sequence is as long."""

    def __init__(self, merged: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.merged = merged

    def forward(self, x: Tensor) -> Tensor:
        rows = len(x)
        x = x.transpose(0, 1)
        y = self.linear(x.flatten(0, 1)).view(-1, rows, 3) if self.merged else self.linear(x)
        return y.transpose(0, 1)


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")  # of vmap
@pytest.mark.parametrize(
    ("build", "shape", "last"),
    [
        (Bilinear, (5, 3), "vmap of layer 'form'"),
        (Sum, (5, 3), "vmap of the whole model"),
        (Recurrent, (5, 4, 3), "one sample at a time"),
    ],
)
def test_each_fallback_is_exact_and_named(build: Any, shape: tuple[int, ...], last: str, agrees: Any) -> None:
    out = agrees(build(), torch.randn(shape), method="auto")
    assert out.fallbacks[-1].startswith(last)


def test_a_fallback_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    model, x = Sum(), torch.randn(4, 3)
    with caplog.at_level(logging.WARNING, "confide.gradients"):
        for _ in range(3):
            clipped_gradient(model, lambda m, b: m(b).square().sum(1), x, clip_norm=1.0)
    assert len(caplog.records) == 1
    assert "einsum" in caplog.text


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("length", [3, 5])
def test_a_batch_that_is_not_in_front(merged: bool, length: int, agrees: Any) -> None:
    agrees(BatchSecond(merged), torch.randn(5, length, 4), method="auto")
    with pytest.raises(UnsupportedLayerError, match="batch in front"):
        agrees(BatchSecond(merged), torch.randn(5, length, 4), method="book-keeping")


class Centred(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        return y - y.mean(0)


def test_mixing_is_refused_by_behaviour() -> None:
    with pytest.raises(UnsupportedLayerError, match="other samples"):
        clipped_gradient(Centred(), lambda m, b: m(b).square().sum(1), torch.randn(5, 4), clip_norm=1.0)


def test_a_first_batch_of_one_does_not_hide_mixing() -> None:
    model = Centred()
    clipped_gradient(model, lambda m, b: m(b).square().sum(1), torch.randn(1, 4), clip_norm=1.0)
    with pytest.raises(UnsupportedLayerError, match="other samples"):
        clipped_gradient(model, lambda m, b: m(b).square().sum(1), torch.randn(5, 4), clip_norm=1.0)


def test_a_model_with_dropout_is_not_taken_for_one_that_mixes() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 2))
    state = torch.get_rng_state()
    clipped_gradient(model, lambda m, b: m(b).square().sum(1), torch.randn(5, 4), clip_norm=1.0)
    assert model[1].training
    torch.set_rng_state(state)


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bi,i->bi", x, self.weight)


def test_a_registered_rule_is_used(agrees: Any) -> None:
    calls: list[int] = []

    @rule(Scaled)
    def scaled(layer: nn.Module, inputs: tuple[Any, ...], grad_output: Tensor) -> dict[str, Tensor]:
        calls.append(len(grad_output))
        return {"weight": inputs[0] * grad_output}

    try:
        agrees(nn.Sequential(nn.Linear(3, 4), Scaled(), nn.Linear(4, 2)), torch.randn(5, 3))
    finally:
        del LAYERS[Scaled]
    assert calls


def test_a_loss_of_the_wrong_shape_is_told_of_the_whole_batch() -> None:
    """Two of its rows are tried first."""
    with pytest.raises(LossError, match=r"returned shape \(\) for a batch of 7"):
        clipped_gradient(nn.Linear(3, 2), lambda model, x: model(x).mean(), torch.randn(7, 3), clip_norm=1.0)
