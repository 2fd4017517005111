# SPDX-License-Identifier: Apache-2.0
"""Who goes into training, validation and test: whole units, never images.

Where nobody has split the data, a unit's side follows from its own pseudonym and the seed alone. So adding
or removing
one unit moves nobody else, which the neighbouring relation of the guarantee needs. Below 100 units the
shares would be too
far off; there units are ranked by the same hash and cut by count.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from confide.data.pseudonyms import pseudonym
from confide.errors import DataError

SPLITS = ("train", "validation", "test")
SEED = 20240601
_FEW = 100


def _positions(units: Sequence[bytes], seed: int) -> NDArray[np.float64]:
    """A number in [0, 1) for each unit, a function of itself and the seed."""
    key = f"split {seed}".encode()
    return np.array([int.from_bytes(pseudonym(key, unit.hex())[:8], "big") / 2.0**64 for unit in units])


def assign(
    units: Sequence[bytes], given: Sequence[str | None], where: str, *, seed: int = SEED
) -> NDArray[np.int64]:
    """0, 1 or 2 (train, validation, test) for each row.

    Args:
        units: The pseudonym of each row's unit.
        given: The split that the data name for each row, or None throughout.
        where: How an error names the data.

    Raises:
        DataError: If a unit is on two sides, a side is empty, or only some rows name theirs.
    """
    distinct = sorted(set(units))
    sides = np.full(len(units), -1, dtype=np.int64)
    if any(given):
        if not all(given):
            raise DataError(
                f"{given.count(None)} rows name no split",
                where=where,
                remedy="Name one in each row, or none.",
            )
        sides = np.array([SPLITS.index(str(name)) for name in given], dtype=np.int64)
        pool, shares = sorted({u for u, side in zip(units, sides, strict=True) if side == 0}), [0.9, 1.0, 1.0]
        if (sides == 2).sum() == 0:
            shares = [0.8, 0.9, 1.0] if (sides == 1).sum() == 0 else [0.9, 0.9, 1.0]
        elif (sides == 1).any():
            shares = [1.0, 1.0, 1.0]
    else:
        pool, shares = distinct, [0.8, 0.9, 1.0]
    drawn = dict(zip(pool, _draw(_positions(pool, seed), shares), strict=True))
    undecided = sides <= 0
    sides[undecided] = [drawn[unit] for unit, free in zip(units, undecided, strict=True) if free]
    refuse_overlap(units, sides, where)
    for number, split in enumerate(SPLITS):
        if not (sides == number).any():
            raise DataError(
                f"nobody is left for {split}: there are only {len(distinct)} units",
                where=where,
                remedy="Name the splits.",
            )
    return sides


def _draw(place: NDArray[np.float64], shares: list[float]) -> list[int]:
    """A side for each unit; `shares` are the upper ends of train, validation and test."""
    if len(place) >= _FEW:
        return np.searchsorted(shares, place, side="right").tolist()
    sides = np.zeros(len(place), dtype=np.int64)
    ranked = np.argsort(place)
    # As many as the share says, but nobody's share is rounded to nothing.
    test, validation = (
        max(1, round(len(place) * part)) if part > 0 else 0
        for part in (shares[2] - shares[1], shares[1] - shares[0])
    )
    sides[ranked[:test]] = 2
    sides[ranked[test : test + validation]] = 1
    return sides.tolist()


def refuse_overlap(units: Sequence[bytes], sides: NDArray[np.int64], where: str) -> None:
    """No unit on two sides.

    Raises:
        DataError: How many are.
    """
    seen: dict[bytes, int] = {}
    both = {
        unit for unit, side in zip(units, sides.tolist(), strict=True) if seen.setdefault(unit, side) != side
    }
    if both:
        raise DataError(
            f"{len(both)} of the units are in more than one split",
            where=where,
            why="The same person on both sides makes scores look better than they are.",
            remedy="Split by unit, or leave the split out: confide then draws one.",
        )
