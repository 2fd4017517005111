# SPDX-License-Identifier: Apache-2.0
"""Uses of parameters that once crashed, or gave another gradient than autograd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from confide.gradients.engine import clipped_gradient

Use = Callable[[nn.Module, Tensor], Tensor]


class Uses(nn.Module):
    """Parameters of several shapes, and how they are used."""

    def __init__(self, use: Use) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 4)
        self.scalar = nn.Parameter(torch.randn(()))
        self.slope = nn.Parameter(torch.rand(4))
        self.square = nn.Parameter(torch.randn(4, 4))
        self.table = nn.Parameter(torch.randn(5, 4))
        self.rows = nn.Embedding(5, 4, sparse=True)
        self.use = use

    def forward(self, x: Tensor) -> Tensor:
        return self.use(self, x)


def _prelu_at_zero(m: Any, x: Tensor) -> Tensor:
    h = m.inner(x)
    return F.prelu(h - h.detach(), m.slope) + 1.0


def _regular(m: Any, x: Tensor) -> Tensor:
    extra = x.new_zeros(())
    for parameter in (m.slope, m.square):
        extra = extra + parameter.square().sum()
    return m.inner(x) + extra


def _tangent(m: Any, x: Tensor) -> Tensor:
    return torch.func.jvp(m.inner, (x,), (torch.ones_like(x),))[1] * m.inner(x)


USES: dict[str, Use] = {
    "prelu at zero": _prelu_at_zero,
    "prelu by keyword": lambda m, x: F.prelu(m.inner(x), weight=m.slope),
    "last row is padding": lambda m, x: F.embedding((x * 5).long(), m.table, padding_idx=-1).mean(1),
    "second last row": lambda m, x: F.embedding((x * 5).long(), m.table, padding_idx=-2).mean(1),
    "no padding": lambda m, x: F.embedding((x * 5).long(), m.table).mean(1),
    "sparse": lambda m, x: m.rows((x * 5).long()).mean(1) * m.inner(x),
    "minimum": lambda m, x: m.inner(x) * torch.minimum(m.scalar, x.new_tensor(4.6)),
    "regulariser": _regular,
    "matmul by keyword": lambda m, x: torch.matmul(m.inner(x), other=m.square),
    "tangent": _tangent,
}
FALLING = ("minimum", "regulariser", "matmul by keyword", "tangent")


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")  # of vmap
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # within torch.func.jvp
@pytest.mark.parametrize("method", ["auto", "loop"])
@pytest.mark.parametrize("name", USES)
def test_gradients_are_those_of_autograd(name: str, method: str) -> None:
    model = Uses(USES[name]).double()
    x = torch.rand(5, 6, dtype=torch.float64)

    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        return model(batch).square().sum(1)

    out = clipped_gradient(model, loss, x, clip_norm=1e9, method=method)
    assert method == "loop" or bool(out.fallbacks) == (name in FALLING)
    loss(model, x).sum().backward()
    for key, parameter in model.named_parameters():
        expected = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.to_dense()
        torch.testing.assert_close(out.sums[key], expected, rtol=1e-10, atol=1e-12)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.jit
def test_a_traced_part_falls_back() -> None:
    part = torch.jit.trace(nn.Sequential(nn.Linear(4, 4), nn.Tanh()), torch.rand(2, 4))
    model = nn.Sequential(nn.Linear(6, 4), part, nn.Linear(4, 2))
    x = torch.rand(5, 6)

    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        return model(batch).square().sum(1)

    out = clipped_gradient(model, loss, x, clip_norm=1e9)
    loss(model, x).sum().backward()
    for key, parameter in model.named_parameters():
        torch.testing.assert_close(out.sums[key], parameter.grad, rtol=1e-4, atol=1e-5)
    assert out.fallbacks


class Dropped(nn.Module):
    """A layer without a rule that draws random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 6))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bi,oi->bo", F.dropout(x, 0.5, self.training), self.weight)


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")  # of vmap
def test_a_layer_that_draws_has_the_gradient_of_what_it_drew() -> None:
    """Of a loss linear in a weight, gradient times weight is the loss."""
    model = nn.Sequential(Dropped()).double()
    x = torch.randn(5, 6, dtype=torch.float64)
    for _ in range(3):
        out = clipped_gradient(model, lambda m, b: m(b).sum(1), x, clip_norm=1e9)
        product = (out.sums["0.weight"] * model[0].weight).sum()
        torch.testing.assert_close(product, out.losses.sum())
