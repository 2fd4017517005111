# SPDX-License-Identifier: Apache-2.0
"""The spans of kernel bases agree with e2cnn's, on figures that `oracle/make_reference.py` stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from confide.equivariant import Group, induced, irrep, parse_group, quotient, regular, trivial
from confide.equivariant.groups import CyclicGroup
from confide.equivariant.kernels import kernel_basis
from confide.equivariant.representations import Representation

STORED: dict[str, npt.NDArray[Any]] = dict(np.load(Path(__file__).parent / "oracle" / "e2cnn.npz"))
NAMES = sorted({name.rpartition(" ")[0] for name in STORED if not name.startswith("error")})


def representation(group: Group, word: str) -> Representation:
    """The representation of a stored name."""
    kind, number = word.rstrip("0123456789-"), word.strip("abcdefghijklmnopqrstuvwxyz")
    match kind:
        case "trivial":
            return trivial(group)
        case "regular":
            return regular(group)
        case "quotient":
            return quotient(group, CyclicGroup(int(number)))
        case "induced":
            return induced(group, int(number))
        case _:
            return irrep(group, int(number.rstrip("-")), int(number.endswith("-")))


def probes(n: int) -> npt.NDArray[np.float64]:
    """The fixed (n, 3) matrix of make_reference.py."""
    i = np.arange(n)[:, None]
    return np.cos(0.37 * i * np.array([1.0, 1.7, 2.9]) + 0.011 * i**2 + np.array([0.1, 0.5, 1.2]))


def kernels_of(name: str) -> npt.NDArray[np.float64]:
    """Our basis of a stored space, (K, n)."""
    group_name, word_in, word_out, side = name.split()
    group = parse_group(group_name)
    assert group is not None
    found = kernel_basis(representation(group, word_in), representation(group, word_out), int(side)).kernels
    return found.reshape(len(found), -1)


def test_the_stored_figures_cover_the_pairs_of_the_prototype() -> None:
    assert len(NAMES) >= 78
    assert {name.split()[0] for name in NAMES} == {
        *("C1", "C2", "C4", "C8", "C16", "D1", "D2", "D4", "D8", "SO2", "O2")
    }


@pytest.mark.parametrize("name", NAMES)
def test_dimension_and_span_agree_with_e2cnn(name: str) -> None:
    flat = kernels_of(name)
    assert len(flat) == STORED[f"{name} count"]
    found = flat.T @ (flat @ probes(flat.shape[1]))
    # e2cnn samples in float32.
    np.testing.assert_allclose(found, STORED[f"{name} probes"], atol=3e-6)


def test_the_comparison_sees_one_wrong_kernel() -> None:
    name = "C4 regular regular 3"
    flat = kernels_of(name).copy()
    flat[5] = np.roll(flat[5], 1)
    found = flat.T @ (flat @ probes(flat.shape[1]))
    assert np.abs(found - STORED[f"{name} probes"]).max() > 1e-2
