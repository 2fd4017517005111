# SPDX-License-Identifier: Apache-2.0
"""Groups multiply as their matrices do, and refuse what they are not."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

from confide.equivariant import O2, SO2, CyclicGroup, DihedralGroup, Element, Group, parse_group
from confide.errors import ConfigError

GROUPS = [
    CyclicGroup(1),
    CyclicGroup(3),
    CyclicGroup(8),
    DihedralGroup(1),
    DihedralGroup(5),
    DihedralGroup(8),
]


def matrix(element: Element) -> Any:
    """The element as a matrix of the plane, written out."""
    c, s = math.cos(element.angle), math.sin(element.angle)
    mirror = np.diag([-1.0, 1.0]) if element.mirrored else np.eye(2)
    return np.array([[c, -s], [s, c]]) @ mirror


@pytest.mark.parametrize("group", GROUPS, ids=str)
def test_elements_are_distinct_closed_and_multiply_as_matrices(group: Group) -> None:
    elements = group.elements()
    assert len(elements) == group.order
    matrices = [matrix(e) for e in elements]
    for (a, m), (b, n) in itertools.product(zip(elements, matrices, strict=True), repeat=2):
        np.testing.assert_allclose(matrix(a @ b), m @ n, atol=1e-12)
        assert sum(np.allclose(m @ n, other, atol=1e-9) for other in matrices) == 1


@pytest.mark.parametrize("group", [SO2(), O2()], ids=str)
def test_continuous_groups_have_no_order_and_elements_in_steps(group: Group) -> None:
    with pytest.raises(ConfigError, match="infinitely many"):
        _ = group.order
    with pytest.raises(ConfigError, match="infinitely many"):
        group.elements()
    assert len(group.elements(6)) == (12 if group.reflections else 6)


@pytest.mark.parametrize("n", [0, -4, 2.0, "4", None, True])
@pytest.mark.parametrize("kind", [CyclicGroup, DihedralGroup])
def test_no_whole_number_of_rotations_is_refused(kind: Any, n: Any) -> None:
    with pytest.raises(ConfigError, match=r"has no N = "):
        kind(n)


def test_subgroups() -> None:
    assert O2().contains(DihedralGroup(7)) and O2().contains(SO2()) and SO2().contains(CyclicGroup(5))
    assert DihedralGroup(8).contains(DihedralGroup(4)) and DihedralGroup(8).contains(CyclicGroup(8))
    assert not CyclicGroup(8).contains(DihedralGroup(1)) and not CyclicGroup(8).contains(CyclicGroup(16))
    assert not CyclicGroup(8).contains(SO2()) and not SO2().contains(O2())


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("C4", CyclicGroup(4)),
        ("d16", DihedralGroup(16)),
        ("SO(2)", SO2()),
        ("o2", O2()),
        ("none", None),
        ("{e}", None),
        (None, None),
        (O2(), O2()),
    ],
)
def test_groups_by_name(name: Any, group: Group | None) -> None:
    assert parse_group(name) == group


@pytest.mark.parametrize("name", ["C0", "E4", "C", "4", "SO3", "C4x", 4])
def test_a_name_of_no_group_is_refused(name: Any) -> None:
    with pytest.raises(ConfigError):
        parse_group(name)
