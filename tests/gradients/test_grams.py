# SPDX-License-Identifier: Apache-2.0
"""Norms from Gram matrices against autograd, one row at a time, in every geometry of a convolution."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from confide.gradients.engine import clipped_gradient
from confide.gradients.grams import conv_norms
from confide.gradients.kernels import ConvShape
from confide.gradients.rules.linear import linear_norms

CONVOLUTIONS = {
    False: (F.conv1d, F.conv2d, F.conv3d),
    True: (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d),
}
# Dimensions; sizes of the image, along the last axis one more; kernel; stride; padding; dilation.
GEOMETRIES = [
    (dims, kernel, stride, padding, dilation)
    for dims, kernel, stride, padding, dilation in itertools.product(
        (1, 2, 3), (1, 2, 3, 4), (1, 2, 3), (0, 1, 2, 4), (1, 2)
    )
    if (dims < 3 or (kernel < 4 and dilation == 1)) and 5 + 2 * padding > dilation * (kernel - 1)
]


def expected_norms(x: Tensor, grad: Tensor, weight: Tensor, shape: ConvShape) -> Tensor:
    convolve = CONVOLUTIONS[shape.transposed][x.dim() - 3]
    found: list[Tensor] = []
    for one, out in zip(x, grad, strict=True):
        leaf = weight.clone().requires_grad_()
        y = convolve(
            one[None], leaf, stride=shape.stride, padding=shape.padding, dilation=shape.dilation, groups=1
        )
        found += torch.autograd.grad(y, leaf, out[None])
    return torch.stack(found).flatten(1).square().sum(1)


def check(dims: int, kernel: int, stride: int, padding: int, dilation: int, *, transposed: bool) -> None:
    shape = ConvShape(
        (stride,) * dims, (padding,) * dims, (dilation,) * dims, (0,) * dims, transposed, groups=1
    )
    x = torch.randn(3, 2, *[5] * (dims - 1), 6, dtype=torch.float64)
    sides = (2, 3) if transposed else (3, 2)
    weight = torch.randn(*sides, *[kernel] * dims, dtype=torch.float64)
    convolve = CONVOLUTIONS[transposed][dims - 1]
    out = convolve(x, weight, stride=shape.stride, padding=shape.padding, dilation=shape.dilation)
    grad = torch.randn_like(out)
    got = conv_norms(x, grad, shape, tuple(weight.shape[2:]))
    assert torch.allclose(got, expected_norms(x, grad, weight, shape), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_convolutions(dims: int) -> None:
    # With padding 4 some offsets of a kernel meet nothing but padding at many outputs, or at all.
    chosen = [geometry for geometry in GEOMETRIES if geometry[0] == dims]
    assert len(chosen) > 20
    for geometry in chosen:
        check(*geometry, transposed=False)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_transposed_convolutions(dims: int) -> None:
    chosen = [
        (dims, kernel, stride, padding, dilation)
        for count, kernel, stride, padding, dilation in GEOMETRIES
        if count == dims and 4 * stride + dilation * (kernel - 1) + 1 > 2 * padding
    ]
    assert len(chosen) > 20
    for geometry in chosen:
        check(*geometry, transposed=True)


def test_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    x, grad = torch.randn(5, 2, 6, 6), torch.randn(5, 3, 6, 6)
    shape = ConvShape((1, 1), (1, 1), (1, 1), (0, 0), False, 1)
    monkeypatch.setattr("confide.gradients.grams._CACHED", 2 * 4 * 36**2)  # two samples
    expected = expected_norms(x.double(), grad.double(), torch.zeros(3, 2, 3, 3, dtype=torch.float64), shape)
    assert conv_norms(x, grad, shape, (3, 3)).tolist() == pytest.approx(expected.tolist(), rel=1e-4)


def _cancelling(offset: float, steps: int, wide: int) -> tuple[Tensor, Tensor]:
    """Inputs (40, T, wide) with a common part, output gradients (40, T, 32) of which the half undoes the
    other."""
    x = torch.randn(40, steps, wide) + offset
    signs = torch.tensor([1.0, -1.0]).repeat(steps // 2)
    return x, torch.randn(40, 1, 32) * signs[:, None]


@pytest.mark.parametrize("offset", [0.0, 1e2, 1e3, 1e4, 1e6])
@pytest.mark.parametrize(("steps", "wide"), [(2, 2048), (8, 64), (100, 128)])
def test_norms_are_never_too_small(offset: float, steps: int, wide: int) -> None:
    x, grad = _cancelling(offset, steps, wide)
    exact = torch.bmm(grad.double().mT, x.double()).square().sum((1, 2))
    most = (x.double().square().sum(2) * grad.double().square().sum(2)).sum(1)
    found = linear_norms(x, grad)
    assert bool((found >= exact).all())
    assert bool((found <= exact + 1.6e-5 * most).all())


@pytest.mark.parametrize("offset", [0.0, 1e2, 1e3, 1e4, 1e6])
def test_nor_are_those_of_convolutions(offset: float) -> None:
    shape = ConvShape((1, 1), (1, 1), (1, 1), (0, 0), False, 1)
    x, grad = (part.mT.reshape(40, -1, 10, 10) for part in _cancelling(offset, 100, 64))
    patches = F.unfold(x.double(), 3, padding=1)
    exact = torch.bmm(grad.double().flatten(2), patches.mT).square().sum((1, 2))
    assert bool((conv_norms(x, grad, shape, (3, 3)) >= exact).all())


@pytest.mark.parametrize("offset", [1e3, 1e4, 1e5])
def test_no_unit_adds_more_than_the_clip_norm_where_products_cancel(offset: float) -> None:
    """Ghost norms of one of these fell short by a factor of 171 once."""
    model = nn.Linear(64, 64, bias=False)
    weights = torch.randn(8, 64)
    weights -= weights.mean(0)

    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        return (model(batch) * weights).sum((1, 2))

    for _ in range(10):
        one = torch.randn(1, 8, 64) + offset
        out = clipped_gradient(model, loss, one, clip_norm=1.0, method="book-keeping")
        assert float(out.sums["weight"].double().norm()) <= 1 + 1e-6
