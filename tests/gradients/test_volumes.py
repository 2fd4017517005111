# SPDX-License-Identifier: Apache-2.0
"""Convolutions of single volumes in halves, against torch's own in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from confide.gradients.engine import clipped_gradient
from confide.gradients.kernels import ConvShape
from confide.gradients.rules.conv import InHalves
from confide.gradients.volumes import is_slow
from confide.training.losses import cross_entropy

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


@pytest.mark.parametrize("padding", [0, 1, (2, 1, 0), "same", "valid"])
@pytest.mark.parametrize("with_bias", [True, False])
def test_ordinary_autograd_in_halves_gives_what_torch_gives(padding: Any, with_bias: bool) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(1, 3, 8, 6, 7, requires_grad=True), torch.randn(4, 3, 3, 3, 3, requires_grad=True)
    bias = torch.randn(4, requires_grad=True) if with_bias else None
    leaves = [leaf for leaf in (x, weight, bias) if leaf is not None]
    with InHalves(), Convolved() as seen:
        y = F.conv3d(x, weight, bias, padding=padding)
        grad = torch.randn_like(y)
        ours = [y, *torch.autograd.grad(y, leaves, grad)]
    assert seen.rows == ([1, 1] if isinstance(padding, str) else [2, 2])
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    z = F.conv3d(exact[0], exact[1], exact[2] if with_bias else None, padding=padding)
    theirs = [z, *torch.autograd.grad(z, exact, grad.double())]
    for one, other in zip(ours, theirs, strict=True):
        assert torch.allclose(one.double(), other, atol=1e-4, rtol=1e-4)


class Convolved(TorchDispatchMode):
    """Notes how many volumes every ungrouped convolution, forwards and backwards, takes at once."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "convolution" in str(func):
            x, weight = args[1:3] if "backward" in str(func) else args[:2]
            if weight.shape[1] == x.shape[1]:  # not one of a volume for each group
                self.rows.append(len(x))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("method", ["auto", "loop"])
def test_no_single_volume_is_convolved_whole(method: str) -> None:
    """Neither where the engine checks itself by ordinary autograd, one sample at a time, nor in its loop."""
    model = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(1), nn.Linear(4 * 8**3, 2))
    batch = (torch.rand(3, 1, 8, 8, 8), torch.tensor([0, 1, 0]))
    with Convolved() as seen:
        clipped_gradient(model, cross_entropy, batch, clip_norm=1.0, method=method)
    assert seen.rows and 1 not in seen.rows


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
