# SPDX-License-Identifier: Apache-2.0
"""Lengths that happen to be that of the batch, rows in another order, losses and batches met later: what the
check of a first batch has not seen. And models that are random, or remember."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from confide.gradients.engine import ClippedGradient, clipped_gradient

CLIP_NORM = 0.05


def squares(model: nn.Module, batch: Any) -> Tensor:
    return model(batch).flatten(1).square().sum(1)


def by_hand(model: nn.Module, loss: Any, batch: Any) -> tuple[dict[str, Tensor], Tensor]:
    """Clipped sums and norms, every row by itself."""
    parts = batch if isinstance(batch, tuple) else (batch,)
    names, parameters = zip(*model.named_parameters(), strict=True)
    sums = {name: torch.zeros_like(p) for name, p in zip(names, parameters, strict=True)}
    norms: list[Tensor] = []
    for row in range(len(parts[0])):
        own = tuple(part[row : row + 1] for part in parts)
        value = loss(model, own if isinstance(batch, tuple) else own[0])[0]
        gradients = torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True)
        norm = torch.stack([g.square().sum() for g in gradients]).sum().sqrt()
        for name, gradient in zip(names, gradients, strict=True):
            sums[name] += gradient * min(1.0, CLIP_NORM / float(norm))
        norms.append(norm.detach())
    return sums, torch.stack(norms)


def check(model: nn.Module, batch: Any, loss: Any = squares, method: str = "auto") -> ClippedGradient:
    out = clipped_gradient(model, loss, batch, clip_norm=CLIP_NORM, method=method)
    sums, norms = by_hand(model, loss, batch)
    torch.testing.assert_close(out.norms, norms, rtol=1e-8, atol=1e-12)
    for name, total in sums.items():
        torch.testing.assert_close(out.sums[name], total, rtol=1e-8, atol=1e-12)
    return out


class Copied(nn.Module):
    """Uses of a parameter of `size` channels, copied from one."""

    def __init__(self, use: str, size: int = 4) -> None:
        super().__init__()
        self.use, self.size = use, size
        self.inner = nn.Linear(3, size)
        self.scale = nn.Parameter(torch.randn(1))
        self.filter = nn.Parameter(torch.randn(1, 1, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        h = self.inner(x)
        match self.use:
            case "expand":
                return h * self.scale.expand(self.size)
            case "repeat":
                return h * self.scale.repeat(self.size)
            case "bias":
                return F.linear(h, torch.eye(self.size, dtype=h.dtype), self.scale.expand(self.size))
            case "product":
                return h @ self.scale.expand(self.size, self.size).t()
            case _:
                image = h[:, :, None, None].expand(-1, -1, 5, 5) * torch.linspace(0, 1, 5, dtype=h.dtype)
                return F.conv2d(image, self.filter.repeat(self.size, 1, 1, 1), groups=self.size)


@pytest.mark.parametrize("use", ["expand", "repeat", "bias", "product", "depthwise"])
@pytest.mark.parametrize("rows", [[4], [5, 4, 3, 4], [2, 4], [3, 4, 8]])
def test_as_many_channels_as_rows(use: str, rows: list[int]) -> None:
    model = Copied(use).double()
    for count in rows:
        check(model, torch.randn(count, 3, dtype=torch.float64))


def test_a_batch_of_another_length_is_taken_the_fast_way_again() -> None:
    model = Copied("expand").double()
    assert check(model, torch.randn(5, 3, dtype=torch.float64)).fallbacks == ()
    for _ in range(2):
        assert "this batch" in check(model, torch.randn(4, 3, dtype=torch.float64)).fallbacks[0]
    assert check(model, torch.randn(5, 3, dtype=torch.float64)).fallbacks == ()


def test_two_classes_and_two_rows_do_not_cost_the_fast_way() -> None:
    assert check(Copied("expand", 2).double(), torch.randn(5, 3, dtype=torch.float64)).fallbacks == ()


class Token(nn.Module):
    """A class token, copied for each row, which is sound; and a copied scale, which can look the same."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, 3))
        self.scale = nn.Parameter(torch.randn(1))
        self.inner = nn.Linear(3, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
        return self.inner(x).mean(1) * self.scale.expand(6)


def test_one_doubt_does_not_settle_another() -> None:
    model = Token().double()
    assert check(model, torch.randn(4, 2, 3, dtype=torch.float64)).fallbacks == ()
    check(model, torch.randn(6, 2, 3, dtype=torch.float64))


class Reordered(nn.Module):
    """Rows in another order, or some of them, and back again."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.inner, self.outer = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, lengths = batch
        h = self.inner(x).tanh()
        order = lengths.argsort(descending=True)
        match self.how:
            case "sorted":
                return self.outer(h[order])[order.argsort()]
            case "selected":
                return self.outer(h.index_select(0, order)).index_select(0, order.argsort())
            case "rolled":
                return self.outer(h.roll(2, 0)).roll(-2, 0)
            case "flipped":
                return self.outer(h.flip(0)).flip(0)
            case "taken":
                spread = order[:, None].expand(-1, 6)
                return self.outer(h.gather(0, spread))[order.argsort()]
            case "by list":
                turned = [*range(min(2, len(h))), *range(len(h) - 1, 1, -1)]
                return self.outer(h[turned])[turned]
            case "by numbers":
                turned = torch.tensor([*range(min(2, len(h))), *range(len(h) - 1, 1, -1)])
                return self.outer(h[turned])[turned]
            case "experts":
                out = h.new_zeros(len(h), 3)
                chosen = lengths > 3
                out[chosen] = self.outer(h[chosen])
                return out + h[:, :3]
            case _:
                tokens = h[:, None].expand(-1, 9, -1)
                kept = torch.arange(9) < lengths[:, None]
                out = h.new_zeros(len(h), 9, 3)
                out[kept] = self.outer(tokens[kept])
                return out


HOWS = ["by list", "by numbers", "sorted", "selected", "rolled", "flipped", "taken", "experts", "packed"]


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("lengths", [[5, 4, 9, 1, 7, 3], [3, 3, 1, 5], [9, 8, 7, 6, 5]])
def test_rows_in_another_order(how: str, lengths: list[int]) -> None:
    torch.manual_seed(1)
    model = Reordered(how).double()
    check(model, (torch.randn(len(lengths), 6, dtype=torch.float64), torch.tensor(lengths)))


class LastToken(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, lengths = batch
        return self.outer(self.inner(x).tanh()[torch.arange(len(x)), lengths - 1])


def test_every_row_in_turn_is_no_other_order() -> None:
    batch = (torch.randn(5, 9, 6, dtype=torch.float64), torch.tensor([5, 4, 9, 1, 7]))
    assert check(LastToken().double(), batch).fallbacks == ()
