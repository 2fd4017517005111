# SPDX-License-Identifier: Apache-2.0
"""Poolings over the group leave channels that the group does not change."""

from __future__ import annotations

import pytest
import torch
from tests.equivariant.cases import ALL
from tests.equivariant.turning import error_on_grid

from confide.equivariant import (
    O2,
    CyclicGroup,
    DihedralGroup,
    FieldType,
    GroupPool,
    InducedNormPool,
    InvariantPool,
    NormPool,
    Representation,
    induced,
    irrep,
    quotient,
    regular,
    trivial,
)
from confide.errors import ConfigError


@pytest.mark.parametrize("rep", [*ALL, irrep(DihedralGroup(4), 0, 1)], ids=str)
def test_what_comes_out_is_invariant(rep: Representation) -> None:
    layer = InvariantPool(FieldType(rep, 3))
    x = torch.randn(2, layer.in_type.size, 5, 5, dtype=torch.float64)
    assert layer(x).shape[1] == 3 * len(rep.blocks)
    assert error_on_grid(layer, rep, trivial(rep.group), x) < 1e-14


def test_the_test_sees_a_pool_of_the_wrong_kind() -> None:
    rep = induced(O2(), 1)
    x = torch.randn(2, rep.size, 5, 5, dtype=torch.float64)
    assert error_on_grid(lambda t: t.amax(1, keepdim=True), rep, trivial(O2()), x) > 0.01


def test_induced_norm_pooling_takes_the_longer_vector() -> None:
    x = torch.tensor([3.0, 4.0, 0.0, -2.0]).view(1, 4, 1, 1)
    assert InducedNormPool(FieldType(induced(O2(), 1), 1))(x).item() == 5.0
    assert NormPool(FieldType(irrep(O2(), 1), 2))(x).flatten().tolist() == [5.0, 2.0]
    assert GroupPool(FieldType(regular(CyclicGroup(4)), 1))(x).item() == 4.0
    assert GroupPool(FieldType(quotient(CyclicGroup(8), CyclicGroup(4)), 2))(x).flatten().tolist() == [4, 0]


@pytest.mark.parametrize(
    ("pool", "rep"),
    [
        (GroupPool, induced(O2(), 1)),
        (NormPool, regular(CyclicGroup(4))),
        (InducedNormPool, irrep(O2(), 1)),
        (GroupPool, regular(CyclicGroup(4)) + irrep(CyclicGroup(4), 1)),
    ],
)
def test_a_pool_of_another_kind_is_refused(pool: type[InvariantPool], rep: Representation) -> None:
    with pytest.raises(ConfigError, match="has no meaning"):
        pool(FieldType(rep, 1))
