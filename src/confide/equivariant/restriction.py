# SPDX-License-Identifier: Apache-2.0
"""Representations of a group, seen by a subgroup."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from confide.equivariant.groups import Element, Group
from confide.equivariant.representations import Block, Induced, Irrep, Quotient, Representation
from confide.errors import ConfigError


@dataclass(frozen=True, eq=False)
class Restricted:
    """A restricted field: channel i of the new order is `signs[i]` times channel `index[i]` of the old one.

    Attributes:
        rep: Representation of the subgroup.
        copies: How many fields of `rep` one field becomes.
        index: (d,) old channels in the new order.
        signs: (d,) of ±1.
    """

    rep: Representation
    copies: int
    index: npt.NDArray[np.int64]
    signs: npt.NDArray[np.float64]


def restrict_representation(rep: Representation, subgroup: Group) -> Restricted:
    """Write a representation, as a subgroup sees it, as a direct sum of that group's blocks.

    Raises:
        ConfigError: If it is no subgroup, or a block is a quotient, which may fall into several kinds.
    """
    if not rep.group.contains(subgroup):
        raise ConfigError(
            f"{subgroup} is no subgroup of {rep.group}",
            remedy=f"{rep.group} contains C_M and D_M with M a divisor of its rotations"
            + ("." if rep.group.reflections else ", and no reflections."),
        )
    blocks: list[Block] = []
    index: list[int] = []
    signs: list[float] = []
    start = 0
    for block, size in zip(rep.blocks, rep.sizes, strict=True):
        found, order, sign = _restrict_block(block, rep.group, subgroup)
        blocks += found
        index += [start + i for i in order]
        signs += sign
        start += size
    copies = len(blocks) if len(set(blocks)) == 1 else 1
    kept = tuple(blocks[:1] if copies > 1 else blocks)
    return Restricted(Representation(subgroup, kept), copies, np.array(index), np.array(signs))


def _restrict_block(
    block: Block, group: Group, subgroup: Group
) -> tuple[list[Block], list[int], list[float]]:
    match block:
        case Quotient(m=1, mirrors=False):
            return _restrict_regular(group, subgroup)
        case Irrep():
            return _restrict_irrep(block, group, subgroup)
        case Induced(k=k):
            if subgroup.reflections and (k == 0 or not _folds(k, subgroup)):
                return [block], list(range(block.size(group))), [1.0] * block.size(group)
            if not subgroup.reflections:
                upper = _restrict_turning(k, 1, group, subgroup)
                lower = _restrict_turning(k, -1, group, subgroup)
                half = block.size(group) // 2
                return upper[0] + lower[0], upper[1] + [half + i for i in lower[1]], upper[2] + lower[2]
    raise ConfigError(
        f"the {block} representation of {group} cannot be restricted to {subgroup}",
        remedy="Take regular or irreducible representations before a restriction.",
    )


def _restrict_regular(group: Group, subgroup: Group) -> tuple[list[Block], list[int], list[float]]:
    """One regular field for each coset H·c: the channels of h·c in the order of H's elements h."""
    position = {_key(group, element): i for i, element in enumerate(group.elements())}
    left = dict(position)
    order: list[int] = []
    while left:
        first = group.elements()[min(left.values())]
        for h in subgroup.elements():
            order.append(left.pop(_key(group, h @ first)))
    return [Quotient()] * (group.order // subgroup.order), order, [1.0] * len(order)


def _key(group: Group, element: Element) -> tuple[bool, int]:
    return element.mirrored, round(element.angle * group.rotations / (2 * np.pi)) % group.rotations


def _restrict_irrep(
    block: Irrep, group: Group, subgroup: Group
) -> tuple[list[Block], list[int], list[float]]:
    k, n = block.k, subgroup.rotations
    if block.size(group) == 2:
        if not subgroup.reflections:
            return _restrict_turning(k, 1, group, subgroup)
        k, sign = _fold(k, n)
        if k == 0 or 2 * k == n:  # the two axes fall apart: one even, one odd under the mirror
            return [Irrep(k, 0), Irrep(k, 1)], [0, 1], [1.0, 1.0]
        return [Irrep(k)], [0, 1], [1.0, sign]
    parity = block.parity if subgroup.reflections else 0
    folded, _ = _fold(k, n)
    return [Irrep(folded, parity)], [0], [1.0]


def _restrict_turning(
    k: int, way: int, group: Group, subgroup: Group
) -> tuple[list[Block], list[int], list[float]]:
    """A vector that turns with frequency ±k, under rotations only."""
    size = Irrep(k).size(group)
    folded, sign = _fold(k, subgroup.rotations)
    if size == 1 or folded == 0 or 2 * folded == subgroup.rotations:
        return [Irrep(folded)] * size, list(range(size)), [1.0] * size
    return [Irrep(folded)], [0, 1], [1.0, sign * way]


def _fold(k: int, n: int) -> tuple[int, float]:
    """Frequency k on n equal turns: the lowest one it equals, and −1 if it runs the other way round."""
    if n == 0:
        return k, 1.0
    k %= n
    return (k, 1.0) if 2 * k <= n else (n - k, -1.0)


def _folds(k: int, group: Group) -> bool:
    return group.finite and 2 * k >= group.rotations
