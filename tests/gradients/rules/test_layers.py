# SPDX-License-Identifier: Apache-2.0
"""Linear, normalising, embedding and attention layers, and parameters outside of leaf layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations


class Text(nn.Module):
    def __init__(self, tied: bool, padding: int | None = None) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 4, padding_idx=padding)
        self.out = nn.Linear(4, 11, bias=False)
        if tied:
            self.out.weight = self.table.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.table((x.abs() * 3).long().clamp_max(10)).tanh())


class Attention(nn.Module):
    def __init__(self, weights: bool, **options: Any) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, **options)
        self.weights = weights
        self.front = options.get("batch_first", False)

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.front else x.transpose(0, 1)
        y = self.attention(x, x, x, need_weights=self.weights)[0]
        return y if self.front else y.transpose(0, 1)


class SmallViT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 2, 2)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.places = nn.Parameter(torch.randn(1, 10, 8))
        self.block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.head = nn.Linear(8, 3)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.places
        return self.head(self.block(x)[:, 0]) * self.scale


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.linear = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(self.conv(x).relu())
        return self.linear(self.linear(x.mean((2, 3))).tanh())


class Reparametrised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = parametrizations.weight_norm(nn.Conv2d(3, 4, 3))
        self.linear = parametrizations.orthogonal(nn.Linear(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.conv(x).mean((2, 3)))


class PartlyFrozen(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.GroupNorm(2, 4)
        self.linear = nn.Linear(4, 4)
        self.unused = nn.Linear(3, 3)
        for parameter in (self.conv.weight, self.norm.weight, self.linear.bias):
            parameter.requires_grad = False

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.norm(self.conv(x)).mean((2, 3)))


CASES = {
    "linear": (lambda: nn.Linear(6, 4), (5, 6)),
    "linear on sequences": (lambda: nn.Linear(6, 4), (5, 3, 6)),
    "linear without bias on grids": (lambda: nn.Linear(6, 4, bias=False), (5, 3, 2, 6)),
    # Above 1,024 weights norms come from Gram matrices, below the gradients are formed.
    "wide linear": (lambda: nn.Linear(40, 30), (5, 40)),
    "wide linear on sequences": (lambda: nn.Linear(40, 30), (5, 3, 40)),
    "long sequences": (lambda: nn.Linear(3, 2), (5, 9, 3)),
    "group norm": (lambda: nn.GroupNorm(2, 4), (5, 4, 3, 3)),
    "group norm 1-d": (lambda: nn.GroupNorm(2, 4), (5, 4, 6)),
    "group norm 3-d": (lambda: nn.GroupNorm(4, 4), (5, 4, 2, 3, 4)),
    "group norm without space": (lambda: nn.GroupNorm(2, 4), (5, 4)),
    "layer norm": (lambda: nn.LayerNorm(6), (5, 3, 6)),
    "layer norm 2-d": (lambda: nn.LayerNorm((3, 6)), (5, 3, 6)),
    "layer norm without bias": (lambda: nn.LayerNorm(6, bias=False), (5, 3, 6)),
    "rms norm": (lambda: nn.RMSNorm(6), (5, 3, 6)),
    "instance norm 1-d": (lambda: nn.InstanceNorm1d(4, affine=True), (5, 4, 6)),
    "instance norm 2-d": (lambda: nn.InstanceNorm2d(4, affine=True), (5, 4, 3, 3)),
    "instance norm 3-d": (lambda: nn.InstanceNorm3d(4, affine=True), (5, 4, 2, 3, 4)),
    "frozen batch norm": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4).eval()),
        (5, 3, 5, 5),
    ),
    "PReLU": (nn.PReLU, (5, 4, 3)),
    "PReLU by channel": (lambda: nn.PReLU(4), (5, 4, 3)),
    "embedding": (lambda: Text(False), (5, 6)),
    "embedding with padding": (lambda: Text(False, 0), (5, 6)),
    "tied weights": (lambda: Text(True), (5, 6)),
    "attention": (lambda: Attention(False, batch_first=True), (5, 4, 8)),
    "attention with weights": (lambda: Attention(True, batch_first=True), (5, 4, 8)),
    "attention without bias": (lambda: Attention(False, batch_first=True, bias=False), (5, 4, 8)),
    "attention, batch second": (lambda: Attention(False), (5, 4, 8)),
    "attention, as long as the batch": (lambda: Attention(False), (5, 5, 8)),
    "transformer layer": (
        lambda: nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True),
        (5, 4, 8),
    ),
    "class token and places": (SmallViT, (5, 3, 6, 6)),
    "called twice": (Twice, (5, 3, 5, 5)),
    "reparametrised": (Reparametrised, (5, 3, 5, 5)),
    "partly frozen, partly unused": (PartlyFrozen, (5, 3, 5, 5)),
}


@pytest.mark.parametrize("case", CASES)
def test_book_keeping_is_exact(case: str, agrees: Any) -> None:
    build, shape = CASES[case]
    out = agrees(build(), torch.randn(shape))
    assert out.fallbacks == ()


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")  # of vmap
@pytest.mark.parametrize("method", ["vmap", "loop", "auto"])
@pytest.mark.parametrize("case", ["class token and places", "partly frozen, partly unused", "tied weights"])
def test_other_methods(case: str, method: str, agrees: Any) -> None:
    build, shape = CASES[case]
    agrees(build(), torch.randn(shape), method=method)


def test_a_loss_may_use_parameters_itself(agrees: Any) -> None:
    def loss(model: nn.Linear, batch: tuple[Tensor, Tensor]) -> Tensor:
        return model(batch[0]).square().mean(1) * batch[1] + 0.1 * model.weight.square().sum()

    agrees(nn.Linear(3, 4), torch.randn(5, 3), loss=loss)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("channels", "groups"), [(1, 1), (2, 1), (4, 4)])
def test_group_norm_between_convolutions(
    channels: int, groups: int, layout: torch.memory_format, agrees: Any
) -> None:
    """One channel is laid out in both formats at once, and its weight repeated has a stride of zero."""
    model = nn.Sequential(
        nn.Conv2d(2, channels, 3), nn.GroupNorm(groups, channels), nn.ReLU(), nn.Conv2d(channels, 2, 3)
    )
    agrees(model, torch.randn(5, 2, 7, 6).to(memory_format=layout))
    agrees(nn.Sequential(nn.GroupNorm(1, 1), nn.Conv2d(1, 2, 3)), torch.randn(5, 1, 7, 6))
