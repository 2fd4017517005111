# SPDX-License-Identifier: Apache-2.0
"""Passages through irreducible representations span the kernels, no more and no fewer."""

from __future__ import annotations

import numpy as np
import pytest
from tests.equivariant.cases import ALL

from confide.equivariant import O2, SO2, CyclicGroup, DihedralGroup, Representation, irrep, regular, trivial
from confide.equivariant.kernels import kernel_basis
from confide.equivariant.spectrum import irreducibles, spectrum
from confide.errors import ConfigError

PAIRS = [
    *((rep, rep) for rep in ALL if rep.size <= 8),
    *((trivial(rep.group), rep) for rep in ALL),
    (regular(CyclicGroup(16)), regular(CyclicGroup(16))),
    (irrep(SO2(), 0) + irrep(SO2(), 2), irrep(SO2(), 1) + irrep(SO2(), 1)),
]


@pytest.mark.parametrize("side", [1, 3, 5])
@pytest.mark.parametrize(("rep_in", "rep_out"), PAIRS, ids=lambda v: str(v))
def test_products_of_passages_are_the_basis(
    rep_in: Representation, rep_out: Representation, side: int
) -> None:
    try:
        basis = kernel_basis(rep_in, rep_out, side).kernels
    except ConfigError:
        pytest.skip("no kernel connects the two")
    found = spectrum(rep_in, rep_out, side)
    assert found is not None
    products = np.concatenate(
        [
            np.einsum("rac,scbxy->rsabxy", p.leaving, p.entering).reshape(-1, basis[0].size)
            for p in found.passages
        ]
    )
    assert products.shape[0] == len(basis)
    # Inner products with the products, carried over, are inner products with the basis: for any tensor.
    probe = np.random.default_rng().normal(size=basis[0].size)
    wanted = basis.reshape(len(basis), -1) @ probe
    np.testing.assert_allclose(products @ probe @ found.to_basis, wanted, atol=1e-9)
    # Norms are taken before they are carried over.
    np.testing.assert_allclose(np.linalg.norm(products @ probe), np.linalg.norm(wanted), rtol=1e-9)


@pytest.mark.parametrize("n", [4, 8, 16])
def test_regular_fields_save_an_order_of_work(n: int) -> None:
    """Products over the pixels, for a pair of fields: N²·9 by the expanded filter; here below 12N."""
    group = CyclicGroup(n)
    found = spectrum(regular(group), regular(group), 3)
    assert found is not None
    products = sum(p.leaving.shape[0] * p.leaving.shape[2] * p.entering.shape[0] for p in found.passages)
    assert products <= 12 * n < n * n * 9


def test_irreducibles_are_all_there_are() -> None:
    assert [rep.size for rep in irreducibles(CyclicGroup(8), 0)] == [1, 2, 2, 2, 1]
    assert [rep.size for rep in irreducibles(DihedralGroup(4), 0)] == [1, 1, 2, 1, 1]
    assert [rep.size for rep in irreducibles(DihedralGroup(3), 0)] == [1, 1, 2]
    assert [rep.size for rep in irreducibles(O2(), 2)] == [1, 1, 2, 2]
