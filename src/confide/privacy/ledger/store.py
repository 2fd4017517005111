# SPDX-License-Identifier: Apache-2.0
"""The ledger's file: an append-only table of events in SQLite, one lock, one chain."""

from __future__ import annotations

import fcntl
import hashlib
import os
import sqlite3
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from confide.errors import LedgerError
from confide.privacy.ledger.events import START, Event, canonical, linked
from confide.privacy.ledger.head import Head, HeadFile
from confide.privacy.ledger.places import host_digest, refuse_shared_disk, secrets_folder
from confide.privacy.ledger.secret import secret, sync_folder
from confide.privacy.ledger.state import State

_TABLE = """CREATE TABLE IF NOT EXISTS events
(seq INTEGER PRIMARY KEY, kind TEXT NOT NULL, body TEXT NOT NULL, prev_hash TEXT NOT NULL,
hash TEXT NOT NULL)"""
_ADOPT = "If this copy is known to be the newest, run: confide ledger verify --adopt"


class Store:
    """An open ledger file.

    Args:
        path: The SQLite file; made if missing.
        adopt: Accept this copy and this machine, whatever the head says; recorded as an event.
        mounts: Text of the mount table; for tests.

    Raises:
        LedgerError: If the file cannot be trusted or must not lie there.
    """

    def __init__(self, path: Path, *, adopt: bool = False, mounts: str | None = None) -> None:
        self.path = path.resolve()
        refuse_shared_disk(self.path, mounts)
        folder = secrets_folder(self.path)
        # The name of the place, not of the content: a ledger that vanished is missed too.
        name = hashlib.sha256(os.fsencode(self.path)).hexdigest()[:24]
        self._process = os.getpid()
        self._broken = ""
        self.state = State()
        self.head = Head(0, START)
        self._connection: sqlite3.Connection | None = None
        self._lock_file = -1
        self._head_file: HeadFile | None = None
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.key = secret(folder / f"{name}.key", create=adopt or not self.path.exists())
            lock = self.path.with_name(self.path.name + ".lock")
            self._lock_file = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
            self._connection = self._connect()
            self._head_file = HeadFile(folder / f"{name}.head", self.key)
            self._begin(adopt)
        except (OSError, sqlite3.Error) as error:
            self.close()
            raise LedgerError("cannot be opened", where=str(self.path), why=str(error)) from None
        except LedgerError:
            self.close()
            raise

    def _begin(self, adopt: bool) -> None:
        host = host_digest(self.key)
        with self._locked():
            self._refresh()
            if adopt:
                self._heads.forget()
                self._append("adopt", {"host": host})
            self._refuse_older_copy()
            if self.head.seq == 0:
                self._append("open", {"host": host})
                sync_folder(self.path.parent)
        if self.state.host != host:
            raise LedgerError(
                "belongs to another machine",
                where=str(self.path),
                why="Two machines with copies of one ledger would both spend its budget.",
                remedy="If it was moved here for good, run: confide ledger verify --adopt",
            )

    @contextmanager
    def transaction(self) -> Generator[State]:
        """The state as of now; nobody else writes until the end. `append` inside."""
        self._usable()
        with self._locked():
            self._refresh()
            self._refuse_older_copy()
            yield self.state

    def append(self, kind: str, body: dict[str, Any]) -> Head:
        """Add an event, inside `transaction`. Returns only when it is on the disk, its head too."""
        self._append(kind, body)
        return self.head

    def snapshot(self) -> State:
        """The state as of now, without holding the lock."""
        with self.transaction() as state:
            return state

    def events(self) -> list[Event]:
        """Every event, checked."""
        with self.transaction():
            return list(linked(self._rows(0), 0, START, str(self.path)))

    def holds(self, mark: Head) -> bool:
        """Whether the chain went through this head."""
        row = self._file.execute("SELECT hash FROM events WHERE seq = ?", (mark.seq,)).fetchone()
        return row is not None and row[0] == mark.hash

    def close(self) -> None:
        """Let the files go."""
        self._broken = self._broken or "it was closed"
        if self._connection is not None:
            self._connection.close()
        if self._head_file is not None:
            self._head_file.close()
        if self._lock_file >= 0:
            os.close(self._lock_file)
            self._lock_file = -1

    @property
    def _file(self) -> sqlite3.Connection:
        if self._connection is None:
            raise LedgerError("is not open", where=str(self.path))
        return self._connection

    @property
    def _heads(self) -> HeadFile:
        if self._head_file is None:
            raise LedgerError("is not open", where=str(self.path))
        return self._head_file

    def _connect(self) -> sqlite3.Connection:
        if not self.path.exists():
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
        connection = sqlite3.connect(self.path, isolation_level=None, timeout=60.0)
        mode = connection.execute("PRAGMA journal_mode=WAL").fetchone()[0]
        if mode != "wal":
            raise LedgerError(
                "has no write-ahead log", where=str(self.path), why=f"SQLite answered {mode!r}."
            )
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute(_TABLE)
        return connection

    @contextmanager
    def _locked(self) -> Generator[None]:
        """The lock file covers commit and head together, which SQLite's own lock cannot."""
        fcntl.flock(self._lock_file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._lock_file, fcntl.LOCK_UN)

    def _usable(self) -> None:
        if self._broken:
            raise LedgerError(
                "writes nothing more",
                where=str(self.path),
                why=f"Because {self._broken}.",
                remedy="Mend the cause, open it anew and resume the run; what was leased stays charged.",
            )
        if os.getpid() != self._process:
            raise LedgerError(
                "was opened by another process",
                where=str(self.path),
                why="An open SQLite file does not survive a fork.",
                remedy="Open the ledger in the process that uses it.",
            )

    def _rows(self, after: int) -> list[tuple[Event, str]]:
        query = "SELECT seq, kind, body, prev_hash, hash FROM events WHERE seq > ? ORDER BY seq"
        try:
            return [(Event(*row[:4]), row[4]) for row in self._file.execute(query, (after,))]
        except sqlite3.Error as error:
            raise LedgerError("cannot be read", where=str(self.path), why=str(error)) from None

    def _refresh(self) -> None:
        """Read what other processes added."""
        for event in linked(self._rows(self.head.seq), self.head.seq, self.head.hash, str(self.path)):
            self._take(event)

    def _take(self, event: Event) -> None:
        self.state.apply(event)
        self.head = Head(event.seq, event.hash)

    def _refuse_older_copy(self) -> None:
        """The chain must go through the head that was noted last; it may be longer, after a crash between the
        two.
        """
        noted = self._heads.read()
        if noted is None and self.head.seq <= 1:
            return  # new, or a crash before the first head was noted; nothing is spent yet
        if noted is None or not self.holds(noted):
            lacks = (
                "its chain head is missing"
                if noted is None
                else f"it lacks event {noted.seq}, noted elsewhere"
            )
            raise LedgerError(
                f"is an older copy or not the ledger that was here: {lacks}",
                where=str(self.path),
                why="Steps that were taken since then would be forgotten.",
                remedy=f"Put the newest copy back. {_ADOPT}.",
            )

    def _append(self, kind: str, body: dict[str, Any]) -> None:
        event = Event(self.head.seq + 1, kind, canonical(body), self.head.hash)
        row = (event.seq, event.kind, event.body, event.prev_hash, event.hash)
        try:
            self._file.execute("BEGIN IMMEDIATE")
            self._file.execute("INSERT INTO events VALUES (?, ?, ?, ?, ?)", row)
            self._file.execute("COMMIT")
            self._heads.write(Head(event.seq, event.hash))
        except (sqlite3.Error, OSError) as error:
            # After a failed fsync nobody knows what is on the disk, so it is not tried again (Rebello et al.,
            # ATC'20).
            self._broken = f"an event could not be written ({error})"
            if self._file.in_transaction:
                self._file.rollback()
            raise LedgerError(
                "an event could not be written",
                where=str(self.path),
                why=str(error),
                remedy="Is the disk full?",
            ) from None
        self._take(event)
