# SPDX-License-Identifier: Apache-2.0
"""Identifiers to pseudonyms: a keyed hash, so that nobody without the project's key can try names against
it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from confide.errors import DataError

# Sets that everybody has need no secret, and the same split everywhere.
PUBLIC_KEY = b"confide: a public data set"


def project_key_path() -> Path:
    """The file of the project's key: CONFIDE_PROJECT_KEY, or in the user's configuration folder."""
    from platformdirs import user_config_path

    named = os.environ.get("CONFIDE_PROJECT_KEY")
    return Path(named) if named else user_config_path("confide") / "project.key"


def project_key() -> bytes:
    """The key of this project, 32 bytes, made at its first use and readable by its owner only.

    Raises:
        DataError: If the file cannot be made or does not hold a key.
    """
    path = project_key_path()
    # Linked into place whole, so that of two processes both read the same key.
    fresh = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            if not path.exists():
                with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                    file.write(os.urandom(32))
                    os.fsync(file.fileno())
                os.link(fresh, path)
        except FileExistsError:
            pass
        finally:
            fresh.unlink(missing_ok=True)
        key = path.read_bytes()
    except OSError as error:
        raise DataError(
            "the project key cannot be read or made", where=str(path), why=str(error.strerror)
        ) from None
    if len(key) != 32:
        raise DataError(
            "does not hold a project key of 32 bytes", where=str(path), remedy="Restore it from a backup."
        )
    return key


def pseudonym(key: bytes, *words: str) -> bytes:
    """16 bytes for a tuple of words."""
    digest = hashlib.blake2b(key=key, digest_size=16)
    for word in words:
        encoded = word.encode()
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return digest.digest()
