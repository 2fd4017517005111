# SPDX-License-Identifier: Apache-2.0
"""Kernel bases: as many as characters count, exactly steerable, orthonormal, the same everywhere."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from typing import Any

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
from confide.equivariant.harmonics import harmonic, ring_functions
from confide.equivariant.kernels import (
    dimension,
    intertwiners,
    invariants,
    kernel_basis,
    orthonormal_kernels,
    spread,
)
from confide.errors import ConfigError

C4, C8, C16, D4, D8 = CyclicGroup(4), CyclicGroup(8), CyclicGroup(16), DihedralGroup(4), DihedralGroup(8)
PAIRS = [
    (trivial(C8), regular(C8)),
    (regular(C4), regular(C4)),
    (regular(C8), regular(C8)),
    (regular(D4), regular(D4)),
    (regular(DihedralGroup(3)), regular(DihedralGroup(3))),
    (quotient(D8, CyclicGroup(4)), regular(D8)),
    (regular(D4), quotient(D4, DihedralGroup(1))),
    (irrep(C8, 1), irrep(C8, 3)),
    (irrep(D4, 0, 1), irrep(D4, 1)),
    (trivial(SO2()), irrep(SO2(), 0) + irrep(SO2(), 1) + irrep(SO2(), 2)),
    (irrep(SO2(), 1), irrep(SO2(), 2)),
    (induced(O2(), 0, 1), induced(O2(), 0, 1)),
    (irrep(O2(), 0, 1) + irrep(O2(), 1), induced(O2(), 0, 2)),
    (regular(D4) + trivial(D4), irrep(D4, 2, 1) + regular(D4)),
]
IDS = [f"{a} to {b}" for a, b in PAIRS]


def elements(group: Group) -> tuple[Element, ...]:
    return group.elements(None if group.finite else 11)


def nullity(rep_in: Representation, rep_out: Representation, frequency: int) -> int:
    """Dimension of the solutions of the constraint, by singular values: no characters, no averages."""
    rows = []
    for g in elements(rep_in.group):
        both = np.kron(np.kron(rep_out(g), rep_in(g)), harmonic(frequency, g))
        rows.append(both - np.eye(len(both)))
    values = np.linalg.svd(np.concatenate(rows), compute_uv=False)
    return int((values < 1e-8).sum())


@pytest.mark.parametrize("frequency", [0, 1, 2, 3])
@pytest.mark.parametrize(("rep_in", "rep_out"), PAIRS, ids=IDS)
def test_dimensions_are_those_of_the_constraint(
    rep_in: Representation, rep_out: Representation, frequency: int
) -> None:
    if rep_in.size * rep_out.size > 64:
        pytest.skip("the oracle's matrix would be large; smaller groups cover the case")
    wanted = nullity(rep_in, rep_out, frequency)
    assert dimension(rep_in, rep_out, frequency) == wanted
    assert len(intertwiners(rep_in, rep_out, frequency)) == wanted


@pytest.mark.parametrize("n", [1, 2, 4, 8, 16])
def test_the_published_count_of_regular_kernels(n: int) -> None:
    """C_N regular to regular has 6 kernels of side 3 for each of N pairs; D_N twice as many pairs."""
    c, d = CyclicGroup(n), DihedralGroup(n)
    assert len(kernel_basis(regular(c), regular(c), 3).kernels) == 6 * n
    assert len(kernel_basis(regular(d), regular(d), 3).kernels) == 12 * n


def test_the_published_counts_of_induced_kernels() -> None:
    g = O2()
    assert len(kernel_basis(induced(g, 1), induced(g, 1), 3).kernels) == 12
    assert len(kernel_basis(induced(g, 0), induced(g, 1), 3).kernels) == 4


@pytest.mark.parametrize("frequency", [0, 1, 2, 3])
@pytest.mark.parametrize(("rep_in", "rep_out"), PAIRS, ids=IDS)
def test_planar_functions_satisfy_the_constraint_between_the_pixels(
    rep_in: Representation, rep_out: Representation, frequency: int
) -> None:
    """k(gx) = ρ_out(g) k(x) ρ_in(g)⁻¹ at random points x, with cos and sin evaluated at gx."""
    basis = intertwiners(rep_in, rep_out, frequency)
    points = np.random.default_rng().normal(size=(5, 2))

    def kernels(at: Any) -> Any:
        angle = np.arctan2(at[:, 1], at[:, 0])
        waves = np.stack([np.cos(frequency * angle), np.sin(frequency * angle)])[: 2 if frequency else 1]
        return np.einsum("kabm,mp->kabp", basis, waves)

    for g in elements(rep_in.group):
        c, s = math.cos(g.angle), math.sin(g.angle)
        matrix = np.array([[c, -s], [s, c]]) @ np.diag([-1.0 if g.mirrored else 1.0, 1.0])
        wanted = np.einsum("ac,kcbp,bd->kadp", rep_out(g), kernels(points), rep_in(g).T)
        np.testing.assert_allclose(kernels(points @ matrix.T), wanted, atol=1e-12)


def constraint_error(kernels: Any, rep_in: Representation, rep_out: Representation) -> float:
    """Largest violation over the quarter turns and mirrors of the group, on the grid."""
    worst, group = 0.0, rep_in.group
    turns = 4 if not group.finite else math.gcd(4, group.rotations)
    for mirrored in (False, True) if group.reflections else (False,):
        for i in range(turns):
            g = Element(2 * math.pi * i / turns, mirrored)
            turned = np.rot90(kernels[..., ::-1] if mirrored else kernels, i * 4 // turns, (-2, -1))
            wanted = np.einsum("ac,kcbxy,bd->kadxy", rep_out(g), turned, rep_in(g).T)
            worst = max(worst, float(np.abs(kernels - wanted).max()))
    return worst


@pytest.mark.parametrize("side", [1, 3, 5, 7])
@pytest.mark.parametrize(("rep_in", "rep_out"), PAIRS, ids=IDS)
def test_sampled_kernels_are_exact_on_the_grid_and_orthonormal(
    rep_in: Representation, rep_out: Representation, side: int
) -> None:
    if side in (5, 7) and rep_in.size * rep_out.size > 64:
        side = 5
    try:
        basis = kernel_basis(rep_in, rep_out, side)
    except ConfigError:
        assert side == 1  # a single pixel knows no angles
        return
    assert constraint_error(basis.kernels, rep_in, rep_out) < 1e-12
    flat = basis.kernels.reshape(len(basis.kernels), -1)
    np.testing.assert_allclose(flat @ flat.T, np.eye(len(flat)), atol=1e-12)


def test_the_constraint_test_sees_a_noisy_basis_and_a_wrong_representation() -> None:
    kernels = kernel_basis(regular(D4), regular(D4), 3).kernels
    noisy = kernels + 1e-6 * np.random.default_rng().normal(size=kernels.shape)
    assert constraint_error(noisy, regular(D4), regular(D4)) > 1e-7
    wrong = induced(D4, 0, 1) + trivial(D4) + trivial(D4)
    assert constraint_error(kernels, regular(D4), wrong) > 0.1


@pytest.mark.parametrize("group", [C4, C8, C16, D4, D8], ids=str)
@pytest.mark.parametrize("side", [3, 5])
def test_a_regular_basis_is_one_filter_moved_along_orbits(group: Group, side: int) -> None:
    basis = kernel_basis(regular(group), regular(group), side)
    assert basis.free is not None
    full = spread(basis.free)
    np.testing.assert_allclose(full, basis.kernels.reshape(full.shape), atol=1e-12)
    share = (np.abs(basis.kernels).max((3, 4)) > 1e-9).mean()
    assert share == pytest.approx(1 / group.order)


def test_bases_that_mix_channels_are_not_taken_for_sparse() -> None:
    assert kernel_basis(induced(O2(), 0, 1), induced(O2(), 0, 1), 3).free is None
    assert kernel_basis(irrep(C8, 1), irrep(C8, 1), 3).free is None


_DIGEST = """
import hashlib
import numpy as np
from confide.equivariant import O2, DihedralGroup, induced, regular, trivial
from confide.equivariant.kernels import kernel_basis
def digest():
    found, d, o = hashlib.sha256(), DihedralGroup(8), O2()
    for a, b in ((regular(d), regular(d)), (induced(o, 0, 1), induced(o, 0, 1)), (trivial(d), regular(d))):
        found.update((np.round(kernel_basis(a, b, 3).kernels, 9) + 0.0).astype("<f8").tobytes())
    return found.hexdigest()
"""


def test_bases_are_the_same_in_another_process_with_other_threads() -> None:
    here: dict[str, Any] = {}
    kernel_basis.cache_clear()
    intertwiners.cache_clear()
    exec(_DIGEST, here)
    threads = {"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"}
    there = subprocess.run(
        [sys.executable, "-c", f"{_DIGEST}\nprint(digest())"],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | threads,
    )
    assert there.stdout.strip() == here["digest"]()


def test_invariants_span_what_the_group_leaves_alone() -> None:
    for rep in (regular(D4), induced(O2(), 0, 1), irrep(C8, 1), regular(C4) + trivial(C4)):
        vectors = invariants(rep)
        for g in elements(rep.group):
            np.testing.assert_allclose(vectors @ rep(g).T, vectors, atol=1e-12)
        mean = sum(rep(g) for g in elements(rep.group)) / len(elements(rep.group))
        assert len(vectors) == round(float(np.trace(mean)))


def test_kernels_that_vanish_or_depend_are_dropped() -> None:
    some = np.zeros((4, 1, 1, 3, 3))
    some[0, 0, 0, 1, 1] = 1.0
    some[1, 0, 0, 1, 1] = -2.0
    some[3, 0, 0, 0, 0] = 3.0
    found = orthonormal_kernels(some)
    assert found.shape == (2, 1, 1, 3, 3)


@pytest.mark.parametrize("cutoff", [0, 1, 2, 3, 4])
def test_every_cutoff_gives_an_orthonormal_steerable_basis(cutoff: int) -> None:
    basis = kernel_basis(regular(C8), regular(C8), 3, cutoff).kernels
    flat = basis.reshape(len(basis), -1)
    np.testing.assert_allclose(flat @ flat.T, np.eye(len(flat)), atol=1e-12)
    assert constraint_error(basis, regular(C8), regular(C8)) < 1e-12


@pytest.mark.parametrize(
    ("rep_in", "rep_out", "words"),
    [
        (regular(C4), regular(C8), "no kernel connects"),
        (regular(C4), regular(D4), "no kernel connects"),
        (trivial(SO2()), irrep(SO2(), 3), "needs angular frequency 3"),
        (trivial(O2()), irrep(O2(), 0, 1), "No frequency and parity"),
    ],
)
def test_what_no_kernel_connects_is_refused(
    rep_in: Representation, rep_out: Representation, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        kernel_basis(rep_in, rep_out, 3)


@pytest.mark.parametrize("side", [0, 2, 4, -3, 3.0, "3", None])
def test_a_side_without_a_centre_is_refused(side: Any) -> None:
    with pytest.raises(ConfigError, match="cannot have side"):
        kernel_basis(regular(C4), regular(C4), side)


@pytest.mark.parametrize("cutoff", [5, -1, 2.5, "2"])
def test_a_frequency_beyond_the_grid_is_refused(cutoff: Any) -> None:
    with pytest.raises(ConfigError, match="band limit"):
        ring_functions(3, cutoff)
