# SPDX-License-Identifier: Apache-2.0
"""Every kernel in float32, where the library takes routes of its own, against autograd row by row."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from confide.gradients.grams import conv_norms
from confide.gradients.kernels import KERNELS, ConvShape, fits, weight_gradient
from confide.gradients.units import Units

# (channels in, channels out, side, kernel, stride, padding, groups)
SHAPES = [
    (3, 8, 9, 3, 1, 1, 1),
    (8, 16, 7, 3, 1, 1, 1),
    (16, 8, 8, 3, 2, 1, 1),
    (8, 8, 6, 1, 1, 0, 1),
    (1, 1, 6, 3, 1, 1, 1),
    (8, 16, 7, 3, 1, 0, 4),
    (12, 20, 7, 3, 2, 1, 1),
]


def arguments(shape: tuple[int, ...], rows: int) -> tuple[Tensor, Tensor, Tensor, ConvShape]:
    inside, outside, side, kernel, stride, padding, groups = shape
    x = torch.randn(rows, inside, side, side + 1)
    weight = torch.randn(outside, inside // groups, kernel, kernel)
    grad = torch.randn_like(F.conv2d(x, weight, None, stride, padding, 1, groups))
    return x, grad, weight, ConvShape((stride,) * 2, (padding,) * 2, (1, 1), (0, 0), False, groups)


def row_by_row(x: Tensor, grad: Tensor, weight: Tensor, shape: ConvShape) -> Tensor:
    """Autograd in float64, one row at a time: (B, *weight shape)."""
    found = []
    for one, out in zip(x.double(), grad.double(), strict=True):
        leaf = weight.double().requires_grad_()
        y = F.conv2d(one[None], leaf, None, shape.stride, shape.padding, 1, shape.groups)
        found += torch.autograd.grad(y, leaf, out[None])
    return torch.stack(found)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(
    "labels", [None, [4, 4, 1, 1, 9, 9], [1, 1, 1, 2, 2, 3]], ids=["rows", "pairs", "uneven"]
)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["first", "last"])
def test_float32_kernels(
    name: str, shape: tuple[int, ...], labels: list[int] | None, layout: torch.memory_format
) -> None:
    x, grad, weight, constants = arguments(shape, 6)
    if not fits(name, x, weight, constants):
        pytest.skip("another kernel covers this shape")
    order = torch.tensor(labels).argsort(stable=True) if labels else torch.arange(6)
    units = Units.of(torch.tensor(labels)[order] if labels else None, 6, x.device)
    x, grad = (t[order].contiguous(memory_format=layout) for t in (x, grad))
    rows = row_by_row(x, grad, weight, constants)
    expected = torch.stack([rows[units.index == u].sum(0) for u in range(units.count)])
    got = weight_gradient(name, x, grad, weight, constants, units)
    assert got.shape == expected.shape
    assert torch.allclose(got.double(), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("shape", [s for s in SHAPES if s[-1] == 1], ids=str)
def test_norms_from_grams(shape: tuple[int, ...]) -> None:
    x, grad, weight, constants = arguments(shape, 5)
    expected = row_by_row(x, grad, weight, constants).flatten(1).square().sum(1)
    got = conv_norms(x, grad, constants, tuple(weight.shape[2:]))
    assert torch.allclose(got, expected, rtol=1e-5)
