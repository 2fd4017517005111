# SPDX-License-Identifier: Apache-2.0
"""Exported networks are ordinary, equal, and run where torch does not."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from confide.equivariant import (
    CyclicGroup,
    FieldType,
    SteerableConv2d,
    SteerableModule,
    SteerableSequential,
    export,
    regular,
)
from confide.models import ResNet9, UNet

GROUPS = ["C4", "C8", "D4", "SO2", "O2"]


def network(group: str) -> nn.Module:
    model = ResNet9(3, 4, (2, 2, 4), group=group, scale_norm=True)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    return model.eval()


def near(found: Tensor, wanted: Tensor) -> bool:
    found, wanted = found.detach(), wanted.detach()
    return float((found - wanted).abs().max()) <= 1e-5 * float(wanted.abs().max())


@pytest.mark.parametrize("group", GROUPS)
def test_an_exported_network_is_equal_and_has_no_steerable_convolution(group: str) -> None:
    model, x = network(group), torch.rand(2, 3, 28, 28)
    names = list(model.state_dict())
    plain = export(model)
    assert near(plain(x), model(x))
    assert not any(isinstance(layer, SteerableConv2d | SteerableSequential) for layer in plain.modules())
    assert list(model.state_dict()) == names  # the model itself is as it was
    if group in ("C4", "C8", "D4"):
        left = {type(m).__name__ for m in plain.modules() if isinstance(m, SteerableModule)}
        assert left <= {"InvariantPool", "Restriction", "FieldMaxPool2d"}


def test_a_single_layer_and_a_unet_export() -> None:
    model, x = UNet(1, 2, (2, 2), group="D4").eval(), torch.rand(1, 1, 12, 12)
    assert near(export(model)(x), model(x))
    conv = next(m for m in model.modules() if isinstance(m, SteerableConv2d))
    assert type(export(conv)) is nn.Conv2d
    sequence = next(m for m in model.modules() if isinstance(m, SteerableSequential))
    assert type(export(sequence)) is nn.Sequential and type(export(sequence)[0]) is nn.Conv2d


@pytest.mark.parametrize("group", GROUPS)
def test_double_copies_and_pickles(group: str) -> None:
    model, x = network(group), torch.rand(2, 3, 16, 16)
    wanted = model(x)
    assert torch.equal(copy.deepcopy(model)(x), wanted)
    assert torch.equal(pickle.loads(pickle.dumps(model))(x), wanted)
    assert near(copy.deepcopy(model).double()(x.double()).float(), wanted)
    twin = ResNet9(3, 4, (2, 2, 4), group=group, scale_norm=True).eval()
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    twin.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(twin(x), wanted)


def test_a_layer_that_never_ran_compiles_into_one_graph() -> None:
    """What a first forward would have cached cannot be computed inside a graph.

    The second layer finds its basis in a cache, so that nothing has asked its own representation anything.
    """
    torch.compiler.reset()

    def layer() -> SteerableConv2d:
        kind = FieldType(regular(CyclicGroup(4)), 1)
        return SteerableConv2d(kind, kind)

    layer()
    conv, x = layer(), torch.randn(1, 4, 5, 5)
    found = torch.compile(conv, fullgraph=True, backend="eager")(x)
    assert near(found, conv(x))


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS)
def test_torch_export_and_fullgraph_compilation(group: str) -> None:
    model, x = network(group), torch.rand(2, 3, 16, 16)
    wanted = model(x)
    assert near(torch.export.export(model, (x,)).module()(x), wanted)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert near(compiled(x), wanted)
    compiled(x).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("steerable", [True, False], ids=["steerable", "exported"])
@pytest.mark.parametrize("group", ["C8", "D4", "O2"])
def test_onnx_gives_the_same_scores(group: str, steerable: bool, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime", reason="the `export` extra is not installed")
    pytest.importorskip("onnxscript", reason="the `export` extra is not installed")
    # As initialised: random scales of the normalisations would amplify another order of sums.
    model, x = ResNet9(3, 4, (2, 2, 4), group=group, scale_norm=True).eval(), torch.rand(2, 3, 16, 16)
    path = tmp_path / "model.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.onnx warns of its own deprecations
        torch.onnx.export(model if steerable else export(model), (x,), path, dynamo=True, verbose=False)
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    scores = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    wanted = model(x).detach()
    assert float((torch.from_numpy(scores) - wanted).abs().max()) <= 5e-5 * float(wanted.abs().max())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("group", GROUPS)
def test_a_gpu_gives_the_same_scores(group: str) -> None:
    model, x = network(group).double(), torch.rand(2, 3, 28, 28, dtype=torch.float64)
    wanted = model(x)
    assert near(copy.deepcopy(model).cuda()(x.cuda()).cpu(), wanted)
