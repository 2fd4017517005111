# SPDX-License-Identifier: Apache-2.0
"""Where a ledger lies, and where it must not lie."""

from __future__ import annotations

import hashlib
import hmac
import os
import tempfile
import uuid
from pathlib import Path

from confide.errors import LedgerError

_MOUNTS = Path("/proc/self/mounts")
# File systems on which several machines, or a machine and its guests, see one file: SQLite's shared memory
# and locks do not reach from one to the other.
_SHARED = frozenset(
    {
        "nfs",
        "nfs4",
        "cifs",
        "smb",
        "smb2",
        "smb3",
        "smbfs",
        "ncpfs",
        "9p",
        "virtiofs",
        "vboxsf",
        "afs",
        "ceph",
        "glusterfs",
        "lustre",
        "gpfs",
        "beegfs",
        "orangefs",
        "pvfs2",
        "ocfs2",
        "gfs2",
        "davfs",
        "coda",
    }
)


def default_path() -> Path:
    """CONFIDE_LEDGER, or ledger.sqlite in the user's data folder."""
    named = os.environ.get("CONFIDE_LEDGER")
    if named:
        return Path(named)
    from platformdirs import user_data_path

    return user_data_path("confide") / "ledger.sqlite"


def secrets_folder(ledger: Path) -> Path:
    """Where the key and the chain's head of a ledger are kept: away from it, so that one backup does not hold
    both.

    CONFIDE_LEDGER_SECRETS, or the user's configuration folder. A ledger in the temporary folder is temporary,
    and so are its key and head: they lie beside it.
    """
    named = os.environ.get("CONFIDE_LEDGER_SECRETS")
    if named:
        return Path(named)
    if ledger.is_relative_to(Path(tempfile.gettempdir()).resolve()):
        return ledger.parent / ".confide-ledger"
    from platformdirs import user_config_path

    return user_config_path("confide") / "ledgers"


def file_system(path: Path, mounts: str) -> tuple[str, str]:
    """Mount point and type of the file system of an absolute path, from the text of a mount table."""
    best = ("/", "unknown")
    for line in mounts.splitlines():
        fields = line.split()
        if len(fields) < 3:
            continue
        # The kernel writes space, tab, newline and backslash as octal escapes.
        point = fields[1].encode("latin-1", "replace").decode("unicode_escape")
        # The later of two mounts on one point hides the earlier.
        if path.is_relative_to(point) and (best[1] == "unknown" or len(point) >= len(best[0])):
            best = (point, fields[2])
    return best


def refuse_shared_disk(path: Path, mounts: str | None = None) -> None:
    """Refuse a ledger on a network file system.

    Args:
        mounts: Text of the mount table; default: the kernel's, where there is one.

    Raises:
        LedgerError: If the disk can be written by another machine.
    """
    if mounts is None:
        try:
            mounts = _MOUNTS.read_text(errors="replace")
        except OSError:  # not Linux: the host check remains
            return
    point, kind = file_system(path, mounts)
    if kind in _SHARED or kind.startswith("fuse."):
        raise LedgerError(
            f"lies on a shared file system ({kind}, mounted at {point})",
            where=str(path),
            why="Its locks do not reach other machines, so two runs could spend one budget.",
            remedy="Set CONFIDE_LEDGER to a file on a local disk, and train on one machine per ledger.",
        )


def host_digest(key: bytes) -> str:
    """This machine, as a keyed digest: tells two machines apart and names neither."""
    try:
        name = Path("/etc/machine-id").read_text().strip()
    except OSError:
        name = ""
    return hmac.new(key, b"host:" + (name or f"{uuid.getnode():x}").encode(), hashlib.sha256).hexdigest()[:32]
