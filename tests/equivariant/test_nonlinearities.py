# SPDX-License-Identifier: Apache-2.0
"""Non-linearities commute with their representation, and refuse those they would break."""

from __future__ import annotations

import pytest
import torch
from tests.equivariant.cases import MIXED, PERMUTED
from tests.equivariant.turning import error_on_grid
from torch import nn

from confide.equivariant import (
    O2,
    SO2,
    CyclicGroup,
    DihedralGroup,
    FieldType,
    GatedNonlinearity,
    NormNonlinearity,
    PointwiseNonlinearity,
    Representation,
    induced,
    irrep,
    regular,
    trivial,
)
from confide.errors import ConfigError

D4 = DihedralGroup(4)


@pytest.mark.parametrize("rep", PERMUTED, ids=str)
def test_pointwise_on_permuted_channels(rep: Representation) -> None:
    layer = PointwiseNonlinearity(FieldType(rep, 3), nn.Mish())
    x = torch.randn(2, layer.in_type.size, 6, 6, dtype=torch.float64)
    assert error_on_grid(layer, rep, rep, x) < 1e-14
    assert torch.equal(layer.export()(x), layer(x))


@pytest.mark.parametrize("rep", [*MIXED, irrep(D4, 0, 1)], ids=str)
def test_pointwise_on_mixed_channels_is_refused(rep: Representation) -> None:
    with pytest.raises(ConfigError, match="not equivariant for"):
        PointwiseNonlinearity(FieldType(rep, 3), nn.ReLU())


@pytest.mark.parametrize("rep", [irrep(D4, 0, 1), irrep(CyclicGroup(8), 4), induced(D4, 2)], ids=str)
def test_odd_functions_on_channels_that_flip(rep: Representation) -> None:
    layer = PointwiseNonlinearity(FieldType(rep, 3), nn.Tanh())
    assert (
        error_on_grid(layer, rep, rep, torch.randn(2, layer.in_type.size, 6, 6, dtype=torch.float64)) < 1e-14
    )


@pytest.mark.parametrize("rep", MIXED, ids=str)
def test_gates_of_their_own(rep: Representation) -> None:
    layer = GatedNonlinearity(FieldType(rep, 3), "own")
    x = torch.randn(2, layer.in_type.size, 6, 6, dtype=torch.float64)
    assert error_on_grid(layer, layer.in_type.rep, rep, x) < 1e-14


@pytest.mark.parametrize(
    "rep", [irrep(SO2(), 0) + irrep(SO2(), 1), induced(O2(), 0, 1, 2), induced(D4, 0, 1)], ids=str
)
def test_shared_gates_cost_no_channels(rep: Representation) -> None:
    layer = GatedNonlinearity(FieldType(rep, 3), "shared")
    assert layer.in_type == layer.out_type
    x = torch.randn(2, layer.in_type.size, 6, 6, dtype=torch.float64)
    assert error_on_grid(layer, rep, rep, x) < 1e-14


def test_an_induced_gate_swaps_with_its_vector() -> None:
    """By hand: two gates and two vectors; what a mirror would do with one shared gate is different."""
    rep = induced(O2(), 1)
    layer = GatedNonlinearity(FieldType(rep, 1), "own")
    gates, vectors = torch.randn(1, 2, 1, 1), torch.randn(1, 4, 1, 1)
    wanted = vectors * torch.sigmoid(gates).repeat_interleave(2, 1)
    torch.testing.assert_close(layer(torch.cat([gates, vectors], 1)), wanted)


def test_gates_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ConfigError, match="to share its gate"):
        GatedNonlinearity(FieldType(induced(O2(), 1), 2), "shared")
    with pytest.raises(ConfigError, match="Choose own or shared"):
        GatedNonlinearity(FieldType(induced(O2(), 0, 1), 2), "none")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("rep", MIXED, ids=str)
def test_norms(rep: Representation) -> None:
    layer = NormNonlinearity(FieldType(rep, 3)).double()
    nn.init.normal_(layer.bias)
    x = torch.randn(2, layer.in_type.size, 6, 6, dtype=torch.float64)
    assert error_on_grid(layer, rep, rep, x) < 1e-13


def test_a_norm_has_the_right_length_and_a_gradient_at_zero() -> None:
    layer = NormNonlinearity(FieldType(irrep(O2(), 1), 1)).double()
    with torch.no_grad():
        layer.bias.fill_(-1.0)
    x = torch.tensor([3.0, 4.0], dtype=torch.float64).view(1, 2, 1, 1)
    torch.testing.assert_close(layer(x), x * 0.8, rtol=1e-6, atol=0)  # 5 − 1 of 5
    zero = torch.zeros(1, 2, 1, 1, dtype=torch.float64, requires_grad=True)
    layer(zero).sum().backward()
    assert zero.grad is not None and torch.isfinite(zero.grad).all()


def test_norms_of_permuted_channels_are_refused() -> None:
    with pytest.raises(ConfigError, match="has no vectors"):
        NormNonlinearity(FieldType(regular(D4) + trivial(D4), 1))
