# SPDX-License-Identifier: Apache-2.0
"""Convolutions of single volumes in halves, against torch's own in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from confide.gradients.engine import clipped_gradient
from confide.gradients.kernels import ConvShape
from confide.gradients.volumes import is_slow

# depth, kernel, stride, padding, dilation
CASES = [
    (8, 3, 1, 1, 1),
    (8, 3, 1, 0, 1),  # 6 layers
    (9, 2, 1, 0, 1),  # 8 layers of an even kernel
    (8, 3, 2, 1, 1),
    (10, 3, 2, 1, 1),  # 5 layers: left whole
    (9, 3, 2, 0, 1),  # 4 layers
    (10, 3, 2, 0, 1),  # 4 layers, and one of input that none looks at
    (8, 3, 1, 2, 2),
    (6, 5, 3, 2, 1),  # 2 layers, one of input that neither looks at
    (4, 3, 1, 3, 1),  # more padding than half the depth
]


def _shape(stride: int, padding: int, dilation: int) -> ConvShape:
    # The other dimensions differ, so that none stands for another.
    return ConvShape((stride, 1, 2), (padding, 1, 0), (dilation, 1, 1), (0, 0, 0), False, 1)


def _oracle(x: Tensor, weight: Tensor, bias: Tensor, grad: Tensor | None, shape: ConvShape) -> list[Tensor]:
    """Output, and gradients of input and weight, by autograd in float64."""
    x, weight = x.double().requires_grad_(), weight.double().requires_grad_()
    y = F.conv3d(x, weight, bias.double(), shape.stride, shape.padding, shape.dilation)
    if grad is None:
        return [y.detach()]
    return [y.detach(), *torch.autograd.grad(y, (x, weight), grad.double())]


@pytest.mark.parametrize("case", CASES)
def test_a_single_volume_gives_what_torch_gives(case: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    depth, kernel, *rest = case
    shape = _shape(*rest)
    x, weight, bias = torch.randn(1, 3, depth, 6, 7), torch.randn(4, 3, kernel, 3, 2), torch.randn(4)
    layers = _oracle(x, weight, bias, None, shape)[0].shape[2]
    assert is_slow(x, weight, shape) == (layers % 2 == 0)
    y = shape.forward(x, weight, bias)
    grad = torch.randn_like(y)
    expected = _oracle(x, weight, bias, grad, shape)
    need, found = shape.backward(grad, x, weight, (True, True))
    only = shape.backward(grad, x, weight, (False, True))[1]
    for ours, theirs in zip((y, need, found, only), (*expected, expected[2]), strict=True):
        assert ours.shape == theirs.shape
        assert torch.allclose(ours.double(), theirs, atol=1e-4, rtol=1e-4)


def test_only_what_torch_is_slow_at_is_cut() -> None:
    shape, weight = _shape(1, 1, 1), torch.randn(2, 3, 3, 3, 3)
    x = torch.randn(1, 3, 8, 8, 8)
    others: list[tuple[Tensor, Tensor, dict[str, Any]]] = [
        (torch.randn(2, 3, 8, 8, 8), weight, {}),
        (x.double(), weight.double(), {}),
        (torch.randn(1, 3, 32, 240, 2), weight, {}),  # 23,040 numbers before the last dimension
        (x, torch.randn(2, 3, 1, 1, 1), {"padding": (0, 0, 0)}),
        (x, torch.randn(3, 1, 3, 3, 3), {"groups": 3}),
        (x, torch.randn(3, 2, 3, 3, 3), {"transposed": True}),
    ]
    assert is_slow(x, weight, shape)
    for volume, kernel, changed in others:
        assert not is_slow(volume, kernel, ConvShape(**(vars(_shape(1, 1, 1)) | changed)))


def test_the_clipped_sum_of_volumes_one_at_a_time_is_that_of_all() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv3d(4, 2, 3, stride=2))
    batch = torch.randn(3, 1, 9, 8, 8)

    def loss(network: nn.Module, volumes: Tensor) -> Tensor:
        return network(volumes).square().flatten(1).mean(1)

    one = clipped_gradient(model, loss, batch, clip_norm=0.1, method="book-keeping", physical_batch_size=1)
    whole = clipped_gradient(model.double(), loss, batch.double(), clip_norm=0.1, method="loop")
    assert torch.allclose(one.norms, whole.norms, rtol=1e-5)
    for name, total in one.sums.items():
        assert torch.allclose(total.double(), whole.sums[name], atol=1e-6)
