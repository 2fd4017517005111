# SPDX-License-Identifier: Apache-2.0
"""Norms from Gram matrices against autograd, one row at a time, in every geometry of a convolution."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from confide.gradients.grams import conv_norms
from confide.gradients.kernels import ConvShape

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
