# SPDX-License-Identifier: Apache-2.0
"""A secret of 32 bytes in a file that only its owner can read, made at its first use."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from confide.errors import LedgerError

SIZE = 32


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def secret(path: Path, *, create: bool = True) -> bytes:
    """The 32 bytes of a key file.

    Raises:
        LedgerError: If it cannot be made, is missing though it must be there, or others can read it.
    """
    try:
        if create and not path.exists():
            _make(path)
        mode = path.stat().st_mode
        key = path.read_bytes()
    except OSError as error:
        raise LedgerError(
            "the key cannot be read or made", where=str(path), why=str(error.strerror)
        ) from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise LedgerError(
            "the key can be read by others than its owner", where=str(path), remedy=f"Run: chmod 600 '{path}'"
        )
    if len(key) != SIZE:
        raise LedgerError(
            "does not hold a key of 32 bytes", where=str(path), remedy="Restore it from a backup."
        )
    return key


def _make(path: Path) -> None:
    """Link a finished file into place, so that of two processes both read the same key."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    try:
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(os.urandom(SIZE))
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(fresh, path)
    finally:
        fresh.unlink(missing_ok=True)
    sync_folder(path.parent)
