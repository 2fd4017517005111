# SPDX-License-Identifier: Apache-2.0
"""Orthogonal representations: how the channels of one field mix when the image is turned.

A representation is a direct sum of blocks. All matrices are real and orthogonal, so that norms of fields,
clip norms and Gaussian noise mean the same in every orientation.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from confide.equivariant.groups import Element, Group
from confide.errors import ConfigError

Array = npt.NDArray[np.float64]
Pointwise = Literal["any", "odd", "none"]


@dataclass(frozen=True)
class Block(ABC):
    """One summand of a representation."""

    @abstractmethod
    def size(self, group: Group) -> int:
        """Channels of the block."""

    @abstractmethod
    def matrix(self, group: Group, element: Element) -> Array:
        """ρ(g), (size, size)."""

    @abstractmethod
    def check(self, group: Group) -> None:
        """Raise ConfigError unless the group has this block."""

    @property
    def frequency(self) -> int:
        """Highest angular frequency, where the group is continuous."""
        return 0

    @property
    def vectors(self) -> int:
        """How many equally long vectors the group permutes and turns; 0: it permutes the single channels."""
        return 0

    def pointwise(self, group: Group) -> Pointwise:
        """Which functions may act on single channels: any, odd ones only, or none."""
        return "any" if self.vectors == 0 else "none"


@dataclass(frozen=True)
class Irrep(Block):
    """The irreducible representation of an angular frequency; 1-D ones may have a parity under mirrors."""

    k: int
    parity: int = 0

    @property
    def frequency(self) -> int:
        return self.k

    @property
    def vectors(self) -> int:
        return 0 if (self.k, self.parity) == (0, 0) else 1

    def size(self, group: Group) -> int:
        return 1 if self.k == 0 or 2 * self.k == group.rotations else 2

    def matrix(self, group: Group, element: Element) -> Array:
        sign = -1.0 if element.mirrored else 1.0
        if self.size(group) == 2:
            return rotation(self.k * element.angle, element.mirrored)
        return np.array([[round(np.cos(self.k * element.angle)) * sign**self.parity]])

    def check(self, group: Group) -> None:
        if not isinstance(self.k, int) or self.k < 0 or (group.finite and 2 * self.k > group.rotations):
            limit = f"at most {group.rotations // 2}" if group.finite else "a whole number of at least 0"
            raise ConfigError(
                f"{group} has no irreducible representation of frequency {self.k}", remedy=f"Give {limit}."
            )
        if self.parity not in (0, 1):
            raise ConfigError(
                f"parity cannot be {self.parity!r}", remedy="Give 0 (even) or 1 (odd under mirrors)."
            )
        if self.parity == 1 and not group.reflections:
            raise ConfigError(
                f"{group} has no reflections, so nothing in it can be odd under them",
                remedy="Take parity 0, or D_N or O(2).",
            )
        if self.parity == 1 and self.size(group) == 2:
            raise ConfigError(f"frequency {self.k} of {group} has no parity", remedy="Leave the parity out.")

    def pointwise(self, group: Group) -> Pointwise:
        if (self.k, self.parity) == (0, 0):
            return "any"
        return "odd" if self.size(group) == 1 else "none"

    def __str__(self) -> str:
        return "trivial" if (self.k, self.parity) == (0, 0) else f"irrep {self.k}" + "-" * self.parity


@dataclass(frozen=True)
class Quotient(Block):
    """Functions on the cosets of a subgroup H of a finite group: the group permutes the channels.

    H is C_m, or D_m with the same mirror axis. H = {e} gives the regular representation.
    """

    m: int = 1
    mirrors: bool = False

    def size(self, group: Group) -> int:
        return group.order // (self.m * (2 if self.mirrors else 1))

    def matrix(self, group: Group, element: Element) -> Array:
        target = self.permutation(group, element)
        matrix = np.zeros((len(target), len(target)))
        matrix[target, np.arange(len(target))] = 1
        return matrix

    def permutation(self, group: Group, element: Element) -> npt.NDArray[np.int64]:
        """Where each channel goes. Channel f·P + r, P = N/m, is the coset of R(2πr/N) F^f."""
        period = group.rotations // self.m
        shift = round(element.angle * group.rotations / (2 * np.pi))
        r = np.arange(period)
        turned = (shift + (-r if element.mirrored else r)) % period
        if self.mirrors or not group.reflections:
            return turned
        flipped = 0 if element.mirrored else period
        return np.concatenate([period - flipped + turned, flipped + turned])

    def check(self, group: Group) -> None:
        if not group.finite:
            raise ConfigError(
                f"{group} has no regular or quotient representation with finitely many channels",
                remedy="Take irreducible or induced ones, or C_N or D_N.",
            )
        if self.m < 1 or group.rotations % self.m:
            raise ConfigError(
                f"C{self.m} is no subgroup of {group}",
                remedy=f"Give a divisor of {group.rotations} rotations.",
            )
        if self.mirrors and not group.reflections:
            raise ConfigError(f"{group} has no reflections, so D{self.m} is no subgroup", remedy="Take D_N.")

    def __str__(self) -> str:
        return (
            "regular" if (self.m, self.mirrors) == (1, False) else f"quotient by {'CD'[self.mirrors]}{self.m}"
        )


@dataclass(frozen=True)
class Induced(Block):
    """Induced from the rotations to the group with mirrors: two vectors that a mirror swaps."""

    k: int

    @property
    def frequency(self) -> int:
        return self.k

    @property
    def vectors(self) -> int:
        return 2 if self.k else 0

    def size(self, group: Group) -> int:
        return 2 * Irrep(self.k).size(group)

    def matrix(self, group: Group, element: Element) -> Array:
        upper = Irrep(self.k).matrix(group, Element(element.angle))
        lower = Irrep(self.k).matrix(group, Element(-element.angle))
        zero = np.zeros_like(upper)
        return np.block(
            [[zero, upper], [lower, zero]] if element.mirrored else [[upper, zero], [zero, lower]]
        )

    def check(self, group: Group) -> None:
        if not group.reflections:
            raise ConfigError(
                f"{group} has no reflections to induce a representation to",
                remedy="Take D_N or O(2), or irreps.",
            )
        Irrep(self.k).check(group)

    def pointwise(self, group: Group) -> Pointwise:
        return "any" if self.k == 0 else "odd" if 2 * self.k == group.rotations else "none"

    def __str__(self) -> str:
        return f"induced {self.k}"


@dataclass(frozen=True)
class Representation:
    """A direct sum of blocks, in this order along the channels of one field.

    Raises:
        ConfigError: If the group does not have one of the blocks, or there is none.

    >>> from confide.equivariant.groups import DihedralGroup
    >>> print(regular(DihedralGroup(4)) + trivial(DihedralGroup(4)))
    D4: regular + trivial
    """

    group: Group
    blocks: tuple[Block, ...]
    sizes: tuple[int, ...] = field(init=False, repr=False, compare=False)
    """Channels of each block."""

    def __post_init__(self) -> None:
        if not self.blocks:
            raise ConfigError("a representation needs at least one block")
        for block in self.blocks:
            block.check(self.group)
        # Here and not when first asked for: torch.compile cannot trace the lock of a cached property.
        object.__setattr__(self, "sizes", tuple(block.size(self.group) for block in self.blocks))

    def __add__(self, other: Representation) -> Representation:
        if other.group != self.group:
            raise ConfigError(
                f"representations of {self.group} and {other.group} cannot be added",
                remedy="Restrict one to the group of the other first.",
            )
        return Representation(self.group, self.blocks + other.blocks)

    def __str__(self) -> str:
        return f"{self.group}: {' + '.join(map(str, self.blocks))}"

    @property
    def size(self) -> int:
        """Channels of one field."""
        return sum(self.sizes)

    @property
    def frequency(self) -> int:
        """Highest angular frequency, where the group is continuous."""
        return max(block.frequency for block in self.blocks)

    @property
    def pointwise(self) -> Pointwise:
        """Which functions may act on single channels: any, odd ones only, or none."""
        allowed = {block.pointwise(self.group) for block in self.blocks}
        return "none" if "none" in allowed else "odd" if "odd" in allowed else "any"

    def __call__(self, element: Element) -> Array:
        """ρ(g), (size, size), float64.

        Raises:
            ConfigError: If the group has no such element.
        """
        if not self.group.has(element):
            turned = f"turn by {np.degrees(element.angle):.6g}°"
            raise ConfigError(
                f"{self.group} has no {'mirror and ' * element.mirrored}{turned}",
                remedy="Take one of group.elements(), or a larger group.",
            )
        matrix, start = np.zeros((self.size, self.size)), 0
        for block, size in zip(self.blocks, self.sizes, strict=True):
            matrix[start : start + size, start : start + size] = block.matrix(self.group, element)
            start += size
        return matrix


def rotation(angle: float, mirrored: bool = False) -> Array:
    """Rotation by an angle, after a mirror of the second axis if `mirrored`."""
    c, s, e = np.cos(angle), np.sin(angle), -1.0 if mirrored else 1.0
    return np.array([[c, -s * e], [s, c * e]])


def trivial(group: Group) -> Representation:
    """One channel that nothing changes, such as a grey or colour channel of an image."""
    return Representation(group, (Irrep(0),))


def regular(group: Group) -> Representation:
    """A channel for each element of a finite group; the group permutes them."""
    return Representation(group, (Quotient(),))


def quotient(group: Group, subgroup: Group) -> Representation:
    """A channel for each coset of a subgroup: fields that the subgroup leaves alone."""
    return Representation(group, (Quotient(subgroup.rotations, subgroup.reflections),))


def irrep(group: Group, k: int, parity: int = 0) -> Representation:
    """The irreducible representation of frequency k; `parity` 1 is odd under mirrors (1-D ones only)."""
    return Representation(group, (Irrep(k, parity),))


def induced(group: Group, *frequencies: int) -> Representation:
    """Induced representations of these frequencies, for groups with mirrors."""
    return Representation(group, tuple(Induced(k) for k in frequencies))
