# SPDX-License-Identifier: Apache-2.0
"""Events and the chain of digests that binds each to all before it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from confide.errors import LedgerError

START = "0" * 64


@dataclass(frozen=True)
class Event:
    """One line of the ledger.

    Attributes:
        seq: 1, 2, 3, …: the only order there is.
        kind: What happened.
        body: Its particulars, as canonical JSON.
        prev_hash: Digest of the event before.
    """

    seq: int
    kind: str
    body: str
    prev_hash: str

    @property
    def hash(self) -> str:
        """SHA-256 over everything in this event, and so over everything before it."""
        return hashlib.sha256(f"{self.prev_hash}\n{self.seq}\n{self.kind}\n{self.body}".encode()).hexdigest()

    def line(self) -> str:
        """One line of an export."""
        values = {"seq": self.seq, "kind": self.kind, "body": json.loads(self.body)}
        return canonical(values | {"prev_hash": self.prev_hash, "hash": self.hash})


def canonical(values: dict[str, Any]) -> str:
    """JSON with one spelling: sorted keys, no spaces, no NaN."""
    return json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)


def linked(events: Iterable[tuple[Event, str]], seq: int, head: str, where: str) -> Iterator[Event]:
    """The events, each checked to follow the one before and to have the digest noted with it.

    Args:
        events: (event, noted digest).
        seq: Number of the event before the first.
        head: Digest of the event before the first.

    Raises:
        LedgerError: At the first event that is missing, doubled or altered.
    """
    for event, noted in events:
        if event.seq != seq + 1 or event.prev_hash != head or event.hash != noted:
            raise LedgerError(
                f"event {seq + 1} was altered, removed or put in",
                where=where,
                why="The chain of digests breaks there.",
                remedy="Restore the ledger from its newest backup, or compare it with an export.",
            )
        seq, head = event.seq, noted
        yield event


def verify_export(path: Path) -> tuple[int, str]:
    """Check an exported chain; needs no key. Returns the number of events and the head.

    Raises:
        LedgerError: If a line is not an event, or the chain breaks.
    """

    def read() -> Iterator[tuple[Event, str]]:
        for line in path.read_text(encoding="utf-8").splitlines():
            values = json.loads(line)
            body = canonical(values["body"])
            yield Event(values["seq"], values["kind"], body, values["prev_hash"]), values["hash"]

    count, head = 0, START
    try:
        for event in linked(read(), 0, START, str(path)):
            count, head = event.seq, event.hash
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise LedgerError(
            f"line {count + 1} is not an event", where=str(path), why=type(error).__name__
        ) from None
    return count, head
