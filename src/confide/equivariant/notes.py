# SPDX-License-Identifier: Apache-2.0
"""Notes, given once, where a grid breaks an exact symmetry."""

from __future__ import annotations

import warnings

import torch

_given: set[str] = set()


class ExactnessNote(UserWarning):
    """The network works, but is no longer exactly equivariant on this grid."""


def note_once(text: str) -> None:
    """Warn, the first time in this process, unless the code is being traced."""
    if not torch.compiler.is_compiling() and text not in _given:
        _given.add(text)
        warnings.warn(text, ExactnessNote, stacklevel=4)


def forget_notes() -> None:
    """Give every note again."""
    _given.clear()
