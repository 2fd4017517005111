# SPDX-License-Identifier: Apache-2.0
"""Checks of what a user may ask of an architecture: wrong values are refused by name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Literal

from confide.errors import ConfigError

Activation = Literal["relu", "mish", "elu", "tanh"]


def nearest(word: str, known: Iterable[str]) -> str:
    """A sentence that names the nearest known word, or all of them."""
    known = sorted(known)
    close = difflib.get_close_matches(word.lower(), known, n=1, cutoff=0.5)
    return f"Did you mean {close[0]!r}?" if close else f"Choose one of: {', '.join(known)}."


def check_choice(option: str, value: object, known: Sequence[str]) -> str:
    """The value, if it is one of the known words.

    Raises:
        ConfigError: If it is not; names the nearest.
    """
    if isinstance(value, str) and value in known:
        return value
    raise ConfigError(f"{option} cannot be {value!r}", remedy=nearest(str(value), known))


def check_count(option: str, value: object, *, least: int = 1) -> int:
    """The value, if it is a whole number of at least `least`.

    Raises:
        ConfigError: If it is not.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= least:
        return value
    raise ConfigError(f"{option} cannot be {value!r}", remedy=f"Give a whole number of at least {least}.")


def check_widths(value: object, length: int | None) -> tuple[int, ...]:
    """Channels (or fields) of each stage, as a tuple.

    Raises:
        ConfigError: If there are not `length` of them, or one is no whole number above 0.
    """
    if (
        not isinstance(value, (list, tuple))
        or len(value) == 0
        or (length is not None and len(value) != length)
    ):
        amount = f"{length} numbers" if length else "at least one number"
        raise ConfigError(f"widths cannot be {value!r}", remedy=f"Give {amount}, one for each stage.")
    return tuple(check_count("widths", item) for item in value)
