# SPDX-License-Identifier: Apache-2.0
"""Per-unit gradients of every steerable layer equal those of one backward pass for each sample."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from tests.equivariant.cases import ALL, C4, D4
from torch import Tensor, nn

from confide.equivariant import (
    O2,
    CyclicGroup,
    FieldGroupNorm,
    FieldType,
    NormNonlinearity,
    Representation,
    SteerableConv2d,
    induced,
    irrep,
    persample,
    persample_norm,
    regular,
    trivial,
)
from confide.gradients.engine import clipped_gradient
from confide.gradients.rules import FORWARDS
from confide.gradients.tuning import kernels
from confide.models import ResNet9, UNet


@pytest.fixture(autouse=True)
def _no_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ways by the cost model: the same on every machine, and nothing written to the user's cache."""
    monkeypatch.setenv("CONFIDE_KERNELS", "model")


def squares(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """A loss that gives every output a say and every sample a scale of its own."""
    images, weights = batch
    return model(images).flatten(1).square().mean(1) * weights


def check(model: nn.Module, x: Tensor, units: list[int] | None = None, method: str = "book-keeping") -> None:
    """Norms and clipped sums against one `backward` a sample, clipped by hand below the median norm."""
    rows = len(x)
    batch = (x, torch.linspace(0.5, 2.0, rows, dtype=x.dtype))
    twin = copy.deepcopy(model)
    each: list[list[Tensor]] = []
    for i in range(rows):
        twin.zero_grad()
        squares(twin, (x[i : i + 1], batch[1][i : i + 1]))[0].backward()
        each.append([p.grad.clone() for p in twin.parameters() if p.requires_grad and p.grad is not None])
    owners = units or list(range(rows))
    grouped = [
        [
            torch.stack(parts).mean(0)
            for parts in zip(*(e for e, o in zip(each, owners, strict=True) if o == u), strict=True)
        ]
        for u in sorted(set(owners))
    ]
    norms = torch.stack([torch.stack([g.square().sum() for g in unit]).sum().sqrt() for unit in grouped])
    bound = float(norms.median()) * 0.9
    given = None if units is None else torch.tensor(units)
    out = clipped_gradient(model, squares, batch, clip_norm=bound, units=given, method=method)
    torch.testing.assert_close(out.norms, norms.double(), rtol=1e-8, atol=0)
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    for j, name in enumerate(names):
        wanted = sum(unit[j] * min(1.0, bound / float(n)) for unit, n in zip(grouped, norms, strict=True))
        torch.testing.assert_close(out.sums[name], wanted, rtol=1e-7, atol=1e-9)


def conv(rep_in: Representation, rep_out: Representation, side: int = 3, **options: Any) -> SteerableConv2d:
    layer = SteerableConv2d(FieldType(rep_in, 2), FieldType(rep_out, 3), side, **options).double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    return layer


@pytest.mark.parametrize("way", persample.WAYS)
@pytest.mark.parametrize("units", [None, [0, 0, 1, 2]], ids=["samples", "units"])
@pytest.mark.parametrize("rep", ALL, ids=str)
def test_convolutions(rep: Representation, units: list[int] | None, way: str) -> None:
    with kernels(way):
        check(conv(rep, rep), torch.randn(4, 2 * rep.size, 7, 7, dtype=torch.float64), units)


@pytest.mark.parametrize("way", persample.WAYS)
@pytest.mark.parametrize(
    "options",
    [
        {"side": 5},
        {"side": 1},
        {"stride": 2},
        {"dilation": 2},
        {"padding": 0},
        {"padding": 2},
        {"bias": False},
        {"frequency_cutoff": 3},
    ],
    ids=str,
)
@pytest.mark.parametrize("rep", [regular(C4), induced(O2(), 0, 1)], ids=str)
def test_options_of_convolutions(rep: Representation, options: dict[str, Any], way: str) -> None:
    with kernels(way):
        check(conv(rep, rep, **options), torch.randn(4, 2 * rep.size, 9, 9, dtype=torch.float64))


@pytest.mark.parametrize("way", persample.WAYS)
@pytest.mark.parametrize("rep", [regular(D4), induced(O2(), 0, 1)], ids=str)
def test_images_to_fields(rep: Representation, way: str) -> None:
    with kernels(way):
        check(conv(trivial(rep.group), rep), torch.randn(4, 2, 8, 8, dtype=torch.float64), [1, 0, 0, 1])


@pytest.mark.parametrize(
    "layer",
    [
        FieldGroupNorm(FieldType(regular(C4), 4), 2),
        FieldGroupNorm(FieldType(trivial(C4), 1), 1),  # one channel: for torch both layouts at once
        FieldGroupNorm(FieldType(regular(D4), 4), 1, eps=0.1),
        FieldGroupNorm(FieldType(induced(O2(), 0), 4), 4),
        FieldGroupNorm(FieldType(induced(O2(), 0, 1), 4), 2),
        FieldGroupNorm(FieldType(irrep(CyclicGroup(8), 1), 4), 2),
        NormNonlinearity(FieldType(induced(O2(), 0, 1), 4)),
        NormNonlinearity(FieldType(irrep(O2(), 0, 1) + irrep(O2(), 1), 4)),
    ],
    ids=str,
)
@pytest.mark.parametrize("units", [None, [0, 0, 1, 2]], ids=["samples", "units"])
def test_other_layers_with_parameters(layer: Any, units: list[int] | None) -> None:
    layer = copy.deepcopy(layer).double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    check(layer, torch.randn(4, layer.in_type.size, 6, 6, dtype=torch.float64), units)


def test_one_channel_that_lies_in_memory_as_channels_last() -> None:
    layer = FieldGroupNorm(FieldType(trivial(C4), 1), 1).double()
    images = torch.randn(4, 1, 6, 6, dtype=torch.float64)
    turned = torch.empty_strided((4, 1, 6, 6), (36, 1, 6, 1), dtype=torch.float64).copy_(images)

    def loss(model: Any, x: Tensor) -> Tensor:
        return model(x).pow(3).flatten(1).sum(1)

    found = clipped_gradient(layer, loss, turned, clip_norm=1.0, method="book-keeping")
    expected = clipped_gradient(layer, loss, images, clip_norm=1.0, method="loop")
    assert torch.allclose(found.norms, expected.norms)
    for name, value in expected.sums.items():
        assert torch.allclose(found.sums[name], value), name


@pytest.mark.parametrize("way", persample.WAYS)
@pytest.mark.parametrize("group", ["C4", "C8", "D4", "SO2", "O2"])
def test_whole_networks(group: str, way: str) -> None:
    model = ResNet9(3, 4, (2, 2, 4), group=group, vectors="gated-own").double()
    with kernels(way):
        check(model, torch.randn(4, 3, 16, 16, dtype=torch.float64), [0, 1, 1, 2])


@pytest.mark.parametrize("method", ["book-keeping", "vmap", "loop"])
def test_every_method_agrees_on_a_steerable_unet(method: str) -> None:
    model = UNet(1, 2, (2, 2), group="D4").double()
    check(model, torch.randn(3, 1, 8, 8, dtype=torch.float64), [0, 1, 0], method)


def test_a_shared_layer_adds_its_gradients_before_the_norm() -> None:
    one = conv(regular(C4), regular(C4)).double()
    square = SteerableConv2d(FieldType(regular(C4), 2), FieldType(regular(C4), 2)).double()
    check(nn.Sequential(square, square, one), torch.randn(3, 8, 6, 6, dtype=torch.float64))


def test_partly_frozen_layers() -> None:
    for frozen in ("weight", "bias"):
        layer = nn.Sequential(
            conv(regular(C4), regular(C4)), FieldGroupNorm(FieldType(regular(C4), 3), 1).double()
        )
        getattr(layer[1], frozen).requires_grad_(False)
        getattr(layer[0], frozen).requires_grad_(False)
        check(layer, torch.randn(3, 8, 6, 6, dtype=torch.float64))


def test_windows_of_one_sample_are_added_up() -> None:
    class Windows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = conv(trivial(C4), regular(C4))

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x.flatten(0, 1)).unflatten(0, (len(x), -1)).mean(1)

    check(Windows(), torch.randn(3, 4, 2, 6, 6, dtype=torch.float64))


@pytest.mark.parametrize("units", [None, [0, 0, 1, 2, 2]], ids=["samples", "units"])
def test_a_batch_in_parts_of_one_length(units: list[int] | None, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = conv(regular(D4), regular(D4))
    lengths: list[int] = []
    products = persample._products
    monkeypatch.setattr(persample, "_products", lambda *a: (lengths.append(len(a[2])), products(*a)))
    row = 2 * sum(s * c for _, c, s in persample._spectral_tensors(layer, torch.zeros(0)).sizes) * 49 * 8
    monkeypatch.setattr(persample, "_CACHED", 2 * row + 1)
    with kernels("spectral"):
        check(layer, torch.randn(5, 16, 7, 7, dtype=torch.float64), units)
    assert lengths[-3:] == [2, 2, 2]  # before, two rows were checked


@pytest.mark.parametrize("rows", range(1, 12))
@pytest.mark.parametrize("most", [1, 3, 4, 20])
def test_equal_parts_hold_every_row(rows: int, most: int) -> None:
    parts = [range(rows)[part] for part in persample._equal_parts(rows, most)]
    assert {row for part in parts for row in part} == set(range(rows))
    assert len({len(part) for part in parts}) == 1
    assert len(parts[0]) <= most
    assert len(parts) == -(-rows // most)


def test_the_rule_is_registered_and_leaves_nothing_behind() -> None:
    assert FORWARDS[SteerableConv2d] is persample.steerable_conv2d
    assert FORWARDS[FieldGroupNorm] is persample_norm.field_group_norm
    layer = conv(regular(C4), regular(C4))
    check(layer, torch.randn(3, 8, 6, 6, dtype=torch.float64))
    assert "forward" not in vars(layer)
    assert all(p.grad is None for p in layer.parameters())


def test_the_oracle_sees_a_wrong_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = persample.by_spectrum
    monkeypatch.setattr(persample, "by_spectrum", lambda *a, **k: exact(*a, **k) * 1.001)
    with kernels("spectral"), pytest.raises(AssertionError):
        check(conv(regular(C4), regular(C4)), torch.randn(3, 8, 6, 6, dtype=torch.float64))


@pytest.mark.parametrize("rep", [regular(C4), induced(O2(), 0, 1)], ids=str)
def test_autocast_gradients_are_float32_and_near(rep: Representation) -> None:
    kind = FieldType(rep, 4)
    model = nn.Sequential(SteerableConv2d(kind, kind), FieldGroupNorm(kind, 2), SteerableConv2d(kind, kind))
    batch = (torch.randn(4, kind.size, 9, 9), torch.ones(4))
    exact = clipped_gradient(model, squares, batch, clip_norm=1e9)
    with torch.autocast("cpu", torch.bfloat16):
        found = clipped_gradient(model, squares, batch, clip_norm=1e9)
        model(batch[0])  # also without the engine
    assert {value.dtype for value in found.sums.values()} == {torch.float32}
    gap = sum(float((found.sums[name] - value).square().sum()) for name, value in exact.sums.items())
    whole = sum(float(value.square().sum()) for value in exact.sums.values())
    assert gap < 0.05**2 * whole  # eight bits, a few operations deep


def test_the_way_does_not_depend_on_values_and_is_timed_where_asked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    layer = conv(regular(D4), regular(D4)).float()
    x, g = torch.randn(4, 16, 8, 8), torch.randn(4, 24, 8, 8)
    filters = layer.expand()[0].detach()
    way = persample.choose_way(layer, x, g, filters, "tune")
    assert way in persample.WAYS
    assert persample.choose_way(layer, x * 0, g * float("nan"), filters, "tune") == way
