# SPDX-License-Identifier: Apache-2.0
"""Representations are orthogonal homomorphisms, of the sizes and characters that theory gives."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest

from confide.equivariant import (
    O2,
    SO2,
    CyclicGroup,
    DihedralGroup,
    Element,
    Group,
    Representation,
    induced,
    irrep,
    quotient,
    regular,
    trivial,
)
from confide.errors import ConfigError

C8, D4, D3, D8 = CyclicGroup(8), DihedralGroup(4), DihedralGroup(3), DihedralGroup(8)
ALL = [
    *(regular(g) for g in (CyclicGroup(1), C8, DihedralGroup(1), D3, D8)),
    *(irrep(C8, k) for k in range(5)),
    *(irrep(D4, k, p) for k, p in ((0, 0), (0, 1), (1, 0), (2, 0), (2, 1))),
    *(irrep(g, k) for g in (SO2(), O2()) for k in (0, 1, 3)),
    irrep(O2(), 0, 1),
    *(induced(g, 0, 1) for g in (D3, D4, O2())),
    induced(D4, 2),
    quotient(C8, CyclicGroup(2)),
    quotient(D8, CyclicGroup(4)),
    quotient(D8, DihedralGroup(2)),
    quotient(D4, DihedralGroup(1)),
    regular(D4) + irrep(D4, 1) + trivial(D4),
]


def elements(group: Group) -> tuple[Element, ...]:
    return group.elements(None if group.finite else 7)


@pytest.mark.parametrize("rep", ALL, ids=str)
def test_representations_are_orthogonal_homomorphisms(rep: Representation) -> None:
    for g, h in itertools.product(elements(rep.group), repeat=2):
        np.testing.assert_allclose(rep(g) @ rep(h), rep(g @ h), atol=1e-12)
        np.testing.assert_allclose(rep(g) @ rep(g).T, np.eye(rep.size), atol=1e-12)


@pytest.mark.parametrize("group", [CyclicGroup(5), C8, D3, D4, D8], ids=str)
def test_irreps_have_orthonormal_characters_and_fill_the_regular_representation(group: Group) -> None:
    ones = [(k, p) for k in range(group.rotations // 2 + 1) for p in (0, 1)]
    found = []
    for k, p in ones:
        two_dimensional = 0 < 2 * k < group.rotations
        if p == 0 or (group.reflections and not two_dimensional):
            found.append(irrep(group, k, p))
    characters = np.array([[np.trace(rep(g)) for g in group.elements()] for rep in found])
    gram = characters @ characters.T / group.order
    # The real two-dimensional irreps of rotations alone fall apart over the complex numbers: norm 2.
    norms = [2 if not group.reflections and rep.size == 2 else 1 for rep in found]
    np.testing.assert_allclose(gram, np.diag(norms), atol=1e-12)
    assert sum(rep.size**2 // n for rep, n in zip(found, norms, strict=True)) == group.order


@pytest.mark.parametrize(
    ("group", "subgroup"),
    [(C8, CyclicGroup(2)), (D8, CyclicGroup(4)), (D8, DihedralGroup(2)), (D4, DihedralGroup(1))],
    ids=str,
)
def test_a_quotient_counts_the_cosets_that_stay(group: Group, subgroup: Group) -> None:
    """Its character at g is the number of cosets xH with gxH = xH, counted on sets of matrices."""

    def key(e: Element) -> tuple[bool, int]:
        return e.mirrored, round(e.angle * group.rotations / (2 * np.pi)) % group.rotations

    cosets = {frozenset(key(x @ h) for h in subgroup.elements()) for x in group.elements()}
    by_key = {key(x): x for x in group.elements()}
    rep = quotient(group, subgroup)
    assert rep.size == len(cosets) == group.order // subgroup.order
    for g in group.elements():
        fixed = sum(frozenset(key(g @ by_key[x]) for x in coset) == coset for coset in cosets)
        assert round(np.trace(rep(g))) == fixed


def test_induction_is_frobenius_reciprocal() -> None:
    """The induced character at a rotation is χ(g) + χ(g⁻¹), and zero at a mirror."""
    rep, inner = induced(O2(), 2), irrep(SO2(), 2)
    for g in O2().elements(9):
        wanted = 0.0 if g.mirrored else np.trace(inner(g)) + np.trace(inner(Element(-g.angle)))
        assert np.trace(rep(g)) == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: irrep(C8, 0, 1), "no reflections"),
        (lambda: induced(C8, 1), "no reflections"),
        (lambda: irrep(C8, 5), "frequency 5"),
        (lambda: irrep(SO2(), -1), "frequency -1"),
        (lambda: irrep(D4, 1, 1), "no parity"),
        (lambda: irrep(D4, 0, 2), "parity"),
        (lambda: regular(SO2()), "finitely many"),
        (lambda: quotient(C8, CyclicGroup(3)), "no subgroup"),
        (lambda: quotient(C8, DihedralGroup(2)), "no reflections"),
        (lambda: quotient(D8, SO2()), "no subgroup"),
        (lambda: regular(C8) + regular(D4), "cannot be added"),
        (lambda: Representation(C8, ()), "at least one block"),
        (lambda: regular(C8)(Element(0.0, mirrored=True)), "C8 has no mirror and turn by 0°"),
        (lambda: irrep(SO2(), 1)(Element(0.3, mirrored=True)), "has no mirror"),
        (lambda: regular(C8)(Element(np.pi / 8)), "C8 has no turn by 22.5°"),
    ],
)
def test_what_the_group_does_not_have_is_refused(make: Callable[[], object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make()


def test_printing_names_group_and_blocks() -> None:
    assert str(regular(D4) + irrep(D4, 0, 1)) == "D4: regular + irrep 0-"
    assert str(quotient(D8, DihedralGroup(2))) == "D8: quotient by D2"
