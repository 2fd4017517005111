# SPDX-License-Identifier: Apache-2.0
"""A ledger lies on a local disk, on its own machine, and has no altered event."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from confide.errors import LedgerError
from confide.privacy.ledger import Ledger, places
from confide.privacy.ledger.places import file_system, refuse_shared_disk
from confide.privacy.plan import PrivacyPlan

MOUNTS = """/dev/sda1 / ext4 rw 0 0
server:/home /home nfs4 rw 0 0
/dev/sdb1 /home/local xfs rw 0 0
//box/share /mnt/my\\040share cifs rw 0 0
none /over tmpfs rw 0 0
server:/x /over nfs rw 0 0
host /guest 9p rw 0 0
me@there: /remote fuse.sshfs rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/lib/ledger.sqlite", "ext4"),
        ("/home/me/ledger.sqlite", "nfs4"),
        ("/home/local/ledger.sqlite", "xfs"),
        ("/homestead/ledger.sqlite", "ext4"),
        ("/mnt/my share/ledger.sqlite", "cifs"),
        ("/over/ledger.sqlite", "nfs"),
        ("/guest/ledger.sqlite", "9p"),
        ("/remote/ledger.sqlite", "fuse.sshfs"),
    ],
)
def test_shared_disks(path: str, kind: str) -> None:
    assert file_system(Path(path), MOUNTS)[1] == kind
    if kind in ("ext4", "xfs"):
        refuse_shared_disk(Path(path), MOUNTS)
    else:
        with pytest.raises(LedgerError, match=kind) as refusal:
            refuse_shared_disk(Path(path), MOUNTS)
        assert "CONFIDE_LEDGER" in refusal.value.remedy


def test_a_ledger_on_a_shared_disk_is_not_even_made(path: Path) -> None:
    with pytest.raises(LedgerError, match="shared file system"):
        Ledger.open(path, mounts=f"server:/x {path.parents[1]} nfs4 rw 0 0\n")
    assert not path.parent.exists()


def test_another_machine_is_refused_until_adopted(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Ledger.open(path).close()
    real = places.host_digest
    monkeypatch.setattr("confide.privacy.ledger.store.host_digest", lambda key: real(key)[::-1])
    with pytest.raises(LedgerError, match="another machine"):
        Ledger.open(path)
    Ledger.open(path, adopt=True).close()
    Ledger.open(path).close()


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE events SET body = replace(body, '\"steps\":8', '\"steps\":1') WHERE kind = 'lease'",
        "UPDATE events SET kind = 'pause' WHERE kind = 'lease'",
        "UPDATE events SET hash = 'f' || substr(hash, 2) WHERE seq = 2",
        "UPDATE events SET prev_hash = hash WHERE seq = 2",
        "DELETE FROM events WHERE seq = 2",
        "DELETE FROM events WHERE kind = 'lease'",
        "INSERT INTO events SELECT seq + 100, kind, body, prev_hash, hash FROM events WHERE kind = 'lease'",
    ],
)
def test_an_altered_event_is_found(path: Path, plan: PrivacyPlan, change: str) -> None:
    with Ledger.open(path) as ledger:
        ledger.register("chest", "f", plan.unit)
        reservation = ledger.reserve("chest", plan, run="one", block=8)
        for step in range(8):
            reservation.charge(step)
    connection = sqlite3.connect(path)
    assert connection.execute(change).rowcount > 0
    connection.commit()
    connection.close()
    with pytest.raises(LedgerError, match=r"altered|older copy"):
        Ledger.open(path)


def test_a_damaged_file_key_or_head_is_refused(path: Path, secrets_apart: Path) -> None:
    Ledger.open(path).close()
    key, head = next(secrets_apart.glob("*.key")), next(secrets_apart.glob("*.head"))
    assert key.stat().st_mode & 0o077 == 0
    for part, match in ((path, "cannot be opened"), (key, "32 bytes"), (head, "chain head")):
        whole = part.read_bytes()
        part.write_bytes(b"x" * 31)
        with pytest.raises(LedgerError, match=match):
            Ledger.open(path)
        part.write_bytes(whole)
        Ledger.open(path).close()
    key.unlink()
    with pytest.raises(LedgerError, match="key"):
        Ledger.open(path)


def test_a_torn_head_leaves_the_one_before(path: Path, plan: PrivacyPlan, secrets_apart: Path) -> None:
    with Ledger.open(path) as ledger:
        ledger.register("chest", "f", plan.unit)
        ledger.reserve("chest", plan, run="one")
    head = next(secrets_apart.glob("*.head"))
    whole = head.read_bytes()
    for slot in (0, 4096):
        head.write_bytes(whole[: slot + 20] + b"torn" + whole[slot + 24 :])
        Ledger.open(path).close()
