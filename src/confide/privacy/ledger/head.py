# SPDX-License-Identifier: Apache-2.0
"""The head of the chain, kept outside the ledger's folder: an older copy of the ledger does not match it."""

from __future__ import annotations

import hashlib
import hmac
import os
import struct
import sys
from dataclasses import dataclass
from pathlib import Path

from confide.errors import LedgerError
from confide.privacy.ledger.secret import sync_folder

# Two slots, written in turn: a torn write spoils one and leaves the other. seq, digest, tag.
_SLOT = struct.Struct("<Q32s32s")
_SPACING = 4096


@dataclass(frozen=True)
class Head:
    """The last event known to be in the ledger."""

    seq: int
    hash: str


class HeadFile:
    """A small file, overwritten in place after every commit.

    Args:
        path: The file.
        key: Authenticates the head.
    """

    def __init__(self, path: Path, key: bytes) -> None:
        self._path = path
        self._key = hmac.new(key, b"head", hashlib.sha256).digest()
        self._handle: int | None = None

    def read(self) -> Head | None:
        """The newest head; None where there never was one.

        Raises:
            LedgerError: If the file holds no head of this ledger.
        """
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return None
        found: list[Head] = []
        for slot in range(2):
            part = content[slot * _SPACING : slot * _SPACING + _SLOT.size]
            if len(part) == _SLOT.size:
                seq, digest, tag = _SLOT.unpack(part)
                if hmac.compare_digest(tag, self._tag(seq, digest)):
                    found.append(Head(seq, digest.hex()))
        if not any(content):  # made, and never written
            return None
        if not found:
            raise LedgerError(
                "holds no valid chain head of this ledger",
                where=str(self._path),
                remedy="If the ledger is known to be the newest, run: confide ledger verify --adopt",
            )
        return max(found, key=lambda head: head.seq)

    def write(self, head: Head) -> None:
        """Return only when the head is on the disk."""
        fresh = self._handle is None
        if self._handle is None:
            self._handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
            if os.fstat(self._handle).st_size == 0:
                os.truncate(self._handle, 2 * _SPACING)
        digest = bytes.fromhex(head.hash)
        record = _SLOT.pack(head.seq, digest, self._tag(head.seq, digest))
        # Other processes write too, so the slot follows from the number: an event and the one before never
        # share one.
        os.pwrite(self._handle, record, (head.seq % 2) * _SPACING)
        # The size stays, so the data alone need to reach the disk.
        os.fsync(self._handle) if fresh or sys.platform == "darwin" else os.fdatasync(self._handle)
        if fresh:
            sync_folder(self._path.parent)

    def forget(self) -> None:
        """Drop the noted head, because another one will be trusted."""
        if self._path.exists():
            # Emptied, not removed: another process may hold it open.
            os.truncate(self._path, 0)

    def close(self) -> None:
        """Let the file go."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def _tag(self, seq: int, digest: bytes) -> bytes:
        return hmac.new(self._key, struct.pack("<Q", seq) + digest, hashlib.sha256).digest()
