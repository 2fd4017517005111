# SPDX-License-Identifier: Apache-2.0
"""A restricted field is the same field: it turns as before under every element that is left."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from confide.equivariant import (
    O2,
    SO2,
    CyclicGroup,
    DihedralGroup,
    FieldType,
    Group,
    Representation,
    Restriction,
    induced,
    irrep,
    quotient,
    regular,
    trivial,
)
from confide.errors import ConfigError

C8, D8, D4, D6 = CyclicGroup(8), DihedralGroup(8), DihedralGroup(4), DihedralGroup(6)
CASES: list[tuple[Representation, Group]] = [
    (regular(C8), CyclicGroup(4)),
    (regular(C8), CyclicGroup(1)),
    (regular(D8), D4),
    (regular(D8), CyclicGroup(8)),
    (regular(D6), DihedralGroup(3)),
    (regular(D4) + trivial(D4), DihedralGroup(2)),
    *((irrep(SO2(), k), CyclicGroup(4)) for k in range(6)),
    *((irrep(O2(), k), D4) for k in range(6)),
    *((irrep(O2(), k), CyclicGroup(3)) for k in range(4)),
    (irrep(O2(), 0, 1), D4),
    (irrep(D8, 4, 1), D4),
    (irrep(C8, 3), CyclicGroup(4)),
    (induced(O2(), 0, 1), DihedralGroup(8)),
    (induced(O2(), 0, 1, 2), SO2()),
    (induced(O2(), 1, 3), CyclicGroup(4)),
    (induced(D8, 0, 1), D4),
]


@pytest.mark.parametrize(("rep", "subgroup"), CASES, ids=lambda v: str(v))
def test_a_restricted_field_turns_as_before(rep: Representation, subgroup: Group) -> None:
    layer = Restriction(FieldType(rep, 2), subgroup).double()
    assert layer.out_type.group == subgroup
    x = torch.randn(1, 2 * rep.size, 1, 1, dtype=torch.float64)
    for g in subgroup.elements(None if subgroup.finite else 7):
        before = torch.from_numpy(np.kron(np.eye(2), rep(g))) @ x.flatten()
        inner = layer.out_type.rep(g)
        after = torch.from_numpy(np.kron(np.eye(layer.out_type.multiplicity), inner)) @ layer(x).flatten()
        torch.testing.assert_close(layer(before.view_as(x)).flatten(), after, rtol=0, atol=1e-12)
    assert layer(x).flatten().abs().sort()[0].equal(x.flatten().abs().sort()[0])  # nothing lost or scaled


@pytest.mark.parametrize(
    ("rep", "subgroup"),
    [
        (regular(C8), CyclicGroup(3)),
        (regular(C8), D4),
        (regular(C8), SO2()),
        (quotient(C8, CyclicGroup(2)), CyclicGroup(4)),
    ],
    ids=str,
)
def test_what_is_no_restriction_is_refused(rep: Representation, subgroup: Group) -> None:
    with pytest.raises(ConfigError):
        Restriction(FieldType(rep, 1), subgroup)
