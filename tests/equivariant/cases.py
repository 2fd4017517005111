# SPDX-License-Identifier: Apache-2.0
"""Field types of every kind, for tests that hold for all of them."""

from __future__ import annotations

from confide.equivariant import (
    O2,
    SO2,
    CyclicGroup,
    DihedralGroup,
    Representation,
    induced,
    irrep,
    quotient,
    regular,
    trivial,
)

C4, C8, D4 = CyclicGroup(4), CyclicGroup(8), DihedralGroup(4)
PERMUTED = [
    regular(C4),
    regular(C8),
    regular(CyclicGroup(16)),
    regular(D4),
    regular(DihedralGroup(8)),
    regular(DihedralGroup(1)),
    quotient(C8, CyclicGroup(2)),
    quotient(D4, DihedralGroup(1)),
    regular(D4) + trivial(D4),
    induced(O2(), 0),
]
MIXED = [
    irrep(C8, 0) + irrep(C8, 1) + irrep(C8, 2),
    irrep(C8, 4),
    irrep(D4, 0) + irrep(D4, 0, 1) + irrep(D4, 1),
    induced(D4, 0, 1, 2),
    irrep(SO2(), 0) + irrep(SO2(), 1),
    irrep(O2(), 0) + irrep(O2(), 0, 1) + irrep(O2(), 1),
    induced(O2(), 0, 1),
    induced(O2(), 0, 1, 2),
]
ALL: list[Representation] = PERMUTED + MIXED
