# SPDX-License-Identifier: Apache-2.0
"""Symmetries of the image plane: C_N, D_N, SO(2) and O(2).

An element mirrors left–right, if `mirrored`, and then rotates counter-clockwise by `angle`. With R the
rotation and F the mirror, F R(t) = R(−t) F gives the product

    R(s) F^e · R(t) F^f = R(s + (−1)^e t) F^(e+f).
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass

from confide.errors import ConfigError


@dataclass(frozen=True)
class Element:
    """A symmetry: a mirror, if `mirrored`, and then a rotation by `angle` radians."""

    angle: float = 0.0
    mirrored: bool = False

    def __matmul__(self, other: Element) -> Element:
        """The element that applies `other` first.

        >>> Element(1.0, mirrored=True) @ Element(0.25)
        Element(angle=0.75, mirrored=True)
        """
        turned = -other.angle if self.mirrored else other.angle
        return Element((self.angle + turned) % (2 * math.pi), self.mirrored != other.mirrored)


@dataclass(frozen=True)
class Group(ABC):
    """A group of symmetries of the plane. Equal groups compare equal, so they can be keys."""

    @property
    @abstractmethod
    def rotations(self) -> int:
        """How many rotations it has; 0 stands for all of them."""

    @property
    @abstractmethod
    def reflections(self) -> bool:
        """Whether it has mirrors."""

    @property
    def finite(self) -> bool:
        """Whether it has finitely many elements."""
        return self.rotations > 0

    @property
    def order(self) -> int:
        """Number of elements.

        Raises:
            ConfigError: If there are infinitely many.
        """
        if not self.finite:
            raise ConfigError(f"{self} has infinitely many elements", remedy="Take C_N or D_N.")
        return self.rotations * (2 if self.reflections else 1)

    def elements(self, rotations: int | None = None) -> tuple[Element, ...]:
        """All elements, rotations first; for SO(2) and O(2), those of `rotations` equal steps."""
        steps = rotations or self.rotations
        if steps == 0:
            raise ConfigError(
                f"{self} has infinitely many elements", remedy="Say in how many steps to take them."
            )
        turns = [2 * math.pi * i / steps for i in range(steps)]
        return tuple(Element(t, bool(f)) for f in range(2 if self.reflections else 1) for t in turns)

    def has(self, element: Element) -> bool:
        """Whether the element is one of the group's.

        >>> CyclicGroup(4).has(Element(math.pi / 2)), CyclicGroup(4).has(Element(0.0, mirrored=True))
        (True, False)
        """
        if element.mirrored and not self.reflections:
            return False
        steps = element.angle * self.rotations / (2 * math.pi)
        return not self.finite or abs(steps - round(steps)) < 1e-9

    def contains(self, other: Group) -> bool:
        """Whether the other group is a subgroup (with the same mirror axis).

        >>> DihedralGroup(8).contains(CyclicGroup(4)), CyclicGroup(8).contains(CyclicGroup(3))
        (True, False)
        """
        turns = not self.finite or (other.finite and self.rotations % other.rotations == 0)
        return turns and (self.reflections or not other.reflections)


@dataclass(frozen=True)
class CyclicGroup(Group):
    """C_N: N rotations by multiples of 360°/N.

    Raises:
        ConfigError: If N is no whole number above 0.

    >>> print(CyclicGroup(4), CyclicGroup(4).order)
    C4 4
    """

    n: int

    def __post_init__(self) -> None:
        _check_rotations("C", self.n)

    @property
    def rotations(self) -> int:
        return self.n

    @property
    def reflections(self) -> bool:
        return False

    def __str__(self) -> str:
        return f"C{self.n}"


@dataclass(frozen=True)
class DihedralGroup(Group):
    """D_N: N rotations and N mirrors, 2N elements.

    Raises:
        ConfigError: If N is no whole number above 0.

    >>> print(DihedralGroup(4), DihedralGroup(4).order)
    D4 8
    """

    n: int

    def __post_init__(self) -> None:
        _check_rotations("D", self.n)

    @property
    def rotations(self) -> int:
        return self.n

    @property
    def reflections(self) -> bool:
        return True

    def __str__(self) -> str:
        return f"D{self.n}"


@dataclass(frozen=True)
class SO2(Group):
    """All rotations."""

    @property
    def rotations(self) -> int:
        return 0

    @property
    def reflections(self) -> bool:
        return False

    def __str__(self) -> str:
        return "SO(2)"


@dataclass(frozen=True)
class O2(Group):
    """All rotations and mirrors."""

    @property
    def rotations(self) -> int:
        return 0

    @property
    def reflections(self) -> bool:
        return True

    def __str__(self) -> str:
        return "O(2)"


def parse_group(name: Group | str | None) -> Group | None:
    """The group of that name: C4, D8, SO2, O2; none for no symmetry at all. A group is handed through.

    Raises:
        ConfigError: If the name means no group.

    >>> parse_group("d4"), parse_group("none")
    (DihedralGroup(n=4), None)
    """
    if name is None or isinstance(name, Group):
        return name
    word = re.sub(r"[^a-z0-9]", "", str(name).lower())
    if word in ("none", "e", "null", ""):
        return None
    if word in ("so2", "o2"):
        return SO2() if word == "so2" else O2()
    match = re.fullmatch(r"([cd])(\d{1,3})", word)
    if match is None:
        raise ConfigError(
            f"there is no group {name!r}", remedy="Choose C4 (or another number), D4, SO2, O2, or none."
        )
    return (CyclicGroup if match[1] == "c" else DihedralGroup)(int(match[2]))


def _check_rotations(letter: str, n: object) -> None:
    if not isinstance(n, int) or isinstance(n, bool) or n < 1:
        whole = "SO2" if letter == "C" else "O2"
        raise ConfigError(
            f"{letter}_N has no N = {n!r}",
            remedy=f"Give a whole number of rotations, or take {whole} for all of them.",
        )
