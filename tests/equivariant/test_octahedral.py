# SPDX-License-Identifier: Apache-2.0
"""Layers of volumes commute with all 24 rotations of a cube, and their per-sample gradients are exact."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.equivariant.test_persample import check
from torch import Tensor, nn

import confide
from confide.equivariant import (
    OctahedralConv3d,
    OctahedralFields,
    OctahedralGroupNorm,
    OctahedralPool,
)
from confide.equivariant.octahedral import rotations
from confide.errors import ConfigError

SCALARS, FIELDS = OctahedralFields(2, regular=False), OctahedralFields(2)


def turns() -> list[list[tuple[int, int]]]:
    """All rotations of a cube as words of quarter turns, found by turning an array with torch.rot90."""
    planes = [(2, 3), (3, 4), (2, 4)]
    block = torch.arange(27.0).view(1, 1, 3, 3, 3)
    known: dict[bytes, list[tuple[int, int]]] = {block.numpy().tobytes(): []}
    words: list[list[tuple[int, int]]] = [[]]
    for word in words:
        for plane in planes:
            longer = [*word, plane]
            key = turn(block, longer).numpy().tobytes()
            if key not in known:
                known[key] = longer
                words.append(longer)
    return words


def turn(x: Tensor, word: list[tuple[int, int]]) -> Tensor:
    for plane in word:
        x = torch.rot90(x, 1, plane)
    return x.contiguous()


def matrix(word: list[tuple[int, int]]) -> Any:
    """The rotation as a matrix of the array's axes: where each unit vector's voxel goes."""
    columns = []
    for axis in range(3):
        block = torch.zeros(1, 1, 3, 3, 3)
        place = [1, 1, 1]
        place[axis] = 2
        block[(0, 0, *place)] = 1
        columns.append((turn(block, word)[0, 0].nonzero()[0] - 1).numpy())
    return np.stack(columns, 1)


def act(x: Tensor, kind: OctahedralFields, word: list[tuple[int, int]]) -> Tensor:
    """g·f: the volume turned, and channel g·h of a regular field filled from channel h."""
    turned = turn(x, word)
    if not kind.regular:
        return turned
    group, g = rotations(), matrix(word)
    to = [int(np.flatnonzero((group == g @ h).all((1, 2)))[0]) for h in group]
    fields = turned.unflatten(1, (kind.multiplicity, -1))
    found = torch.empty_like(fields)
    found[:, :, to] = fields
    return found.flatten(1, 2)


def error(layer: nn.Module, kind_in: OctahedralFields, kind_out: OctahedralFields, x: Tensor) -> float:
    plain = layer(x).detach()
    gaps = [(layer(act(x, kind_in, w)).detach() - act(plain, kind_out, w)).abs().max() for w in turns()]
    return float(torch.stack(gaps).max() / plain.abs().max())


def test_the_group_is_that_of_quarter_turns() -> None:
    ours = {m.tobytes() for m in rotations()}
    assert ours == {matrix(w).astype(np.int64).tobytes() for w in turns()} and len(ours) == 24
    assert (rotations()[0] == np.eye(3)).all()


@pytest.mark.parametrize(("dtype", "bar"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("side", [1, 3, 5])
@pytest.mark.parametrize("kind", [SCALARS, FIELDS], ids=str)
def test_convolutions_are_exact(kind: OctahedralFields, side: int, dtype: torch.dtype, bar: float) -> None:
    conv = OctahedralConv3d(kind, FIELDS, side).to(dtype)
    nn.init.normal_(conv.bias)  # pyright: ignore[reportArgumentType]
    assert error(conv, kind, FIELDS, torch.randn(1, kind.size, 5, 5, 5, dtype=dtype)) < bar


def test_the_exactness_test_sees_a_wrong_filter() -> None:
    conv = OctahedralConv3d(FIELDS, FIELDS)
    conv.index[[0, 1]] = conv.index[[1, 0]]
    assert error(conv, FIELDS, FIELDS, torch.randn(1, 48, 4, 4, 4)) > 1e-3
    # A layer made afterwards shares nothing with the spoilt one.
    assert not torch.equal(OctahedralConv3d(FIELDS, FIELDS).index, conv.index)


def network(classes: int = 3) -> nn.Sequential:
    model = nn.Sequential(
        OctahedralConv3d(OctahedralFields(1, regular=False), FIELDS),
        nn.ReLU(),
        OctahedralGroupNorm(FIELDS, 2),
        nn.MaxPool3d(2),
        OctahedralConv3d(FIELDS, FIELDS, bias=False),
        OctahedralPool(FIELDS),
        nn.AdaptiveAvgPool3d(1),
        nn.Flatten(),
        nn.Linear(2, classes),
    ).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model


def test_norm_pool_and_whole_networks() -> None:
    norm = OctahedralGroupNorm(FIELDS, 1).double()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = torch.randn(1, 48, 4, 4, 4, dtype=torch.float64)
    assert error(norm, FIELDS, FIELDS, x) < 1e-12
    assert error(OctahedralPool(FIELDS), FIELDS, SCALARS, x) == 0
    model, x = network(), torch.randn(1, 1, 6, 6, 6, dtype=torch.float64)
    for word in turns():
        torch.testing.assert_close(model(turn(x, word)), model(x), rtol=0, atol=1e-10)


def test_every_number_stands_24_times_in_the_filter() -> None:
    conv = OctahedralConv3d(FIELDS, FIELDS)
    assert conv.index.bincount().eq(24).all()
    wanted = 24 * conv.weight.detach().square().sum()
    torch.testing.assert_close(conv.expand()[0].detach().square().sum(), wanted)


@pytest.mark.parametrize("method", ["book-keeping", "vmap"])
@pytest.mark.parametrize("units", [None, [0, 1, 0]], ids=["samples", "units"])
def test_per_sample_gradients(units: list[int] | None, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONFIDE_KERNELS", "model")
    check(network(), torch.randn(3, 1, 6, 6, 6, dtype=torch.float64), units, method)


def test_samples_stay_apart_and_nothing_hinders_privacy() -> None:
    model = network().float()
    assert confide.inspect(model, torch.randn(3, 1, 6, 6, 6)) == []
    x = torch.randn(3, 1, 6, 6, 6)
    torch.testing.assert_close(model(x)[1:2], model(x[1:2]))
    assert set(model[0].state_dict()) == {"weight", "bias"}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: OctahedralConv3d(FIELDS, FIELDS, 4), "cannot have side 4"),
        (lambda: OctahedralConv3d(FIELDS, FIELDS, 0), "kernel_size cannot be 0"),
        (lambda: OctahedralConv3d(FIELDS, FIELDS, padding=-1), "padding cannot be -1"),
        (lambda: OctahedralConv3d(FIELDS, SCALARS), "cannot give 2 × .O: trivial"),
        (lambda: OctahedralFields(0), "multiplicity cannot be 0"),
        (lambda: OctahedralGroupNorm(FIELDS, 3), "3 equal groups"),
        (lambda: OctahedralConv3d(FIELDS, FIELDS)(torch.zeros(1, 2, 4, 4, 4)), "takes .B, 48, D, H, W"),
        (lambda: OctahedralConv3d(SCALARS, FIELDS)(torch.zeros(1, 2, 4, 4)), "takes .B, 2, D, H, W"),
        (lambda: OctahedralConv3d(SCALARS, FIELDS, 5, padding=0)(torch.zeros(1, 2, 4, 6, 6)), "exceeds the"),
    ],
)
def test_bad_input_is_refused(make: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make()
