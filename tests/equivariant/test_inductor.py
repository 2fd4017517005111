# SPDX-License-Identifier: Apache-2.0
"""Compiled by inductor, torch's compiler to C++, layers and networks compute what they do in eager."""

from __future__ import annotations

import copy
import os
import shutil
import warnings
from collections.abc import Callable, Iterator

import pytest
import torch
from tests.equivariant.cases import C4, C8, D4
from torch import Tensor, nn
from torch._inductor import config

from confide.equivariant import (
    O2,
    BlurPool2d,
    FieldGroupNorm,
    FieldMaxPool2d,
    FieldType,
    GatedNonlinearity,
    GroupPool,
    InducedNormPool,
    InvariantPool,
    NormMaxPool2d,
    NormNonlinearity,
    PointwiseNonlinearity,
    Representation,
    Restriction,
    SteerableConv2d,
    SteerableModule,
    SteerableSequential,
    Upsample2d,
    induced,
    irrep,
    regular,
)
from confide.models import ResNet9

COMPILER = os.environ.get("CXX", "g++")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which(COMPILER) is None, reason=f"no C++ compiler {COMPILER!r} for inductor"),
]


@pytest.fixture(autouse=True)
def _in_this_process() -> Iterator[None]:
    """No pool of compiling processes, nothing kept from another test, torch's own deprecations unheard."""
    torch.compiler.reset()
    with config.patch(compile_threads=1), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)
        yield
    torch.compiler.reset()


def outputs_and_gradients(call: Callable[[Tensor], Tensor], model: nn.Module, x: Tensor) -> list[Tensor]:
    """The output, and the gradients of input and parameters of an uneven sum of its squares, in float64."""
    model.zero_grad()
    x = x.detach().requires_grad_()
    y = call(x)
    scale = torch.linspace(0.5, 1.5, y[0].numel(), dtype=y.dtype).view(y.shape[1:])
    (y.square() * scale).sum().backward()
    gradients = [p.grad for p in model.parameters()]
    assert x.grad is not None and all(g is not None for g in gradients)
    return [t.detach().double() for t in (y, x.grad, *gradients) if t is not None]


def check(model: nn.Module, x: Tensor) -> None:
    """Against eager float64; what float32 rounds is judged by the largest gradient, since some vanish."""
    exact = copy.deepcopy(model).double()
    wanted = outputs_and_gradients(exact, exact, x.double())
    compiled = torch.compile(model, fullgraph=True, backend="inductor")
    found = outputs_and_gradients(compiled, model, x)
    largest = max(float(w.abs().max()) for w in wanted[1:])
    assert float((found[0] - wanted[0]).abs().max()) <= 1e-4 * float(wanted[0].abs().max())
    for one, other in zip(found[1:], wanted[1:], strict=True):
        assert float((one - other).abs().max()) <= 1e-4 * largest


def chain(rep: Representation) -> list[Callable[[FieldType], SteerableModule]]:
    """Every layer that such fields can go through, one after the other."""
    if rep == regular(C8):
        return [
            lambda kind: PointwiseNonlinearity(kind, nn.ELU()),
            lambda kind: FieldGroupNorm(kind, 2),
            FieldMaxPool2d,
            lambda kind: Restriction(kind, C4),
            lambda kind: SteerableConv2d(kind, kind, stride=2),
            GroupPool,
        ]
    if rep.group == D4:
        return [NormNonlinearity, NormMaxPool2d, lambda kind: FieldGroupNorm(kind, 2), InvariantPool]
    return [
        lambda kind: GatedNonlinearity(kind, "shared"),
        lambda kind: FieldGroupNorm(kind, 2),
        BlurPool2d,
        Upsample2d,
        InducedNormPool,
    ]


@pytest.mark.parametrize(
    "rep", [regular(C8), irrep(D4, 0) + irrep(D4, 0, 1) + irrep(D4, 1), induced(O2(), 0, 1)], ids=str
)
def test_layers_compile_into_one_graph(rep: Representation) -> None:
    kind = FieldType(rep, 4)
    layers: dict[str, SteerableModule] = {"conv": SteerableConv2d(kind, kind)}
    for number, make in enumerate(chain(rep)):
        layers[f"layer{number}"] = make(list(layers.values())[-1].out_type)
    check(SteerableSequential(layers), torch.randn(2, kind.size, 10, 10))


@pytest.mark.parametrize("group", ["C4", "O2"])
def test_whole_networks_compile_into_one_graph(group: str) -> None:
    check(ResNet9(3, 4, (2, 2, 4), group=group, scale_norm=True), torch.rand(2, 3, 16, 16))
