# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: safetensors and JSON under an authenticated manifest. Nothing is ever unpickled.

A folder holds `tensors-N.safetensors`, `state-N.json` and `manifest.json`, which names both with size and
SHA-256 and carries an HMAC-SHA256 of itself. The manifest is replaced last, in one rename: a crash at any
instant leaves the old checkpoint or the new one, whole.

| what is found | what happens |
|---|---|
| truncated, altered, swapped with an older part | CheckpointError |
| written under another key: another user, another machine | CheckpointError |
| a pickle, whatever its name | CheckpointError; it is not opened as one |
| an older checkpoint, whole | loaded: the ledger outranks it, see `Ledger.resume(mark=...)` |

The key lies in a file of the user's, never in the checkpoint. Weights and optimizer state are outputs of the
mechanism; no noise key, sampled unit or raw loss belongs in the state.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from confide.errors import CheckpointError, LedgerError
from confide.privacy.ledger.secret import secret, sync_folder

__all__ = ["checkpoint_key", "exists", "load", "save"]

_MANIFEST = "manifest.json"
_PURPOSE = b"confide checkpoint 1\0"
_NAMES = re.compile(r"(tensors|state)-[0-9a-f]{16}\.(safetensors|json)")
_LARGEST_MANIFEST = 65536


def checkpoint_key() -> bytes:
    """The user's key for checkpoints, made at its first use: CONFIDE_CHECKPOINT_KEY names its file.

    Raises:
        CheckpointError: If it cannot be made or read.
    """
    named = os.environ.get("CONFIDE_CHECKPOINT_KEY")
    if named:
        path = Path(named)
    else:
        from platformdirs import user_config_path

        path = user_config_path("confide") / "checkpoint.key"
    try:
        return secret(path)
    except LedgerError as error:
        raise CheckpointError(error.what, where=error.where, why=error.why, remedy=error.remedy) from None


def exists(folder: Path) -> bool:
    """Whether a checkpoint was written here."""
    return (folder / _MANIFEST).exists()


def save(folder: Path, tensors: dict[str, Tensor], state: dict[str, Any], key: bytes) -> None:
    """Write a checkpoint; the previous one stays until this one is on the disk.

    Args:
        folder: Made if missing; nothing else should lie in it.
        tensors: Any shapes and dtypes that safetensors knows; copied to the CPU.
        state: JSON values only, finite numbers only.
        key: 32 secret bytes.

    Raises:
        CheckpointError: If it cannot be written; then the previous checkpoint is untouched.
    """
    from safetensors.torch import save as to_bytes

    _check_key(key)
    try:
        text = json.dumps(state, sort_keys=True, allow_nan=False)
        # A copy of each: safetensors refuses tensors that share memory, such as tied weights.
        packed = to_bytes({name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()})
    except (TypeError, ValueError, KeyError, RuntimeError) as error:
        raise CheckpointError("the state cannot be written", where=str(folder), why=str(error)) from None
    number = secrets.token_hex(8)
    parts = {f"tensors-{number}.safetensors": packed, f"state-{number}.json": text.encode()}
    files = {name: {"bytes": len(b), "sha256": hashlib.sha256(b).hexdigest()} for name, b in parts.items()}
    manifest: dict[str, Any] = {"schema": 1, "files": files}
    manifest["hmac"] = _tag(manifest, key)
    fresh = folder / f".{_MANIFEST}.{number}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in parts.items():
            _write(folder / name, content)
        _write(fresh, json.dumps(manifest).encode())
        sync_folder(folder)
        fresh.replace(folder / _MANIFEST)
        sync_folder(folder)
    except OSError as error:
        # After the rename the new parts are the checkpoint, even if the last sync failed.
        if fresh.exists() or not _named_in_manifest(folder, number):
            for name in (*parts, fresh.name):
                (folder / name).unlink(missing_ok=True)
        raise CheckpointError(
            "a checkpoint cannot be written",
            where=str(folder),
            why=str(error.strerror),
            remedy="Is the disk full?",
        ) from None
    _remove_others(folder, set(parts))


def load(folder: Path, key: bytes) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a checkpoint: its tensors, on the CPU, and its state.

    Raises:
        CheckpointError: If there is none, or any byte of it is not what `save` wrote under this key.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load as from_bytes

    _check_key(key)
    files = _manifest(folder, key)
    contents: dict[str, bytes] = {}
    for name, noted in files.items():
        # Read once and checked in memory, so that nobody can exchange the file in between.
        content = _read(folder / name, noted["bytes"])
        if hashlib.sha256(content).hexdigest() != noted["sha256"]:
            raise _refused(folder / name, "its content is not what was written")
        contents[name.partition("-")[0]] = content
    try:
        return from_bytes(contents["tensors"]), json.loads(contents["state"])
    except (SafetensorError, ValueError, KeyError) as error:
        raise _refused(folder, str(error)) from None


def _manifest(folder: Path, key: bytes) -> dict[str, dict[str, Any]]:
    path = folder / _MANIFEST
    try:
        values = json.loads(_read(path, None))
        tag, files = values["hmac"], values["files"]
        genuine = hmac.compare_digest(str(tag).encode(), _tag(values, key).encode())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise _refused(path, "it is not a manifest") from None
    if not genuine:
        raise _refused(path, "it was altered, or written under another key")
    if values.get("schema") != 1 or not all(_NAMES.fullmatch(name) for name in files):
        raise _refused(path, "it was written by another version")
    return cast("dict[str, dict[str, Any]]", files)


def _tag(manifest: dict[str, Any], key: bytes) -> str:
    signed = {name: value for name, value in manifest.items() if name != "hmac"}
    text = json.dumps(signed, sort_keys=True, separators=(",", ":"))
    return hmac.new(key, _PURPOSE + text.encode(), hashlib.sha256).hexdigest()


def _read(path: Path, size: int | None) -> bytes:
    """A plain file's bytes, of just this size if one is given; links are not followed."""
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
            content = file.read((_LARGEST_MANIFEST if size is None else size) + 1)
    except OSError as error:
        raise CheckpointError("cannot be read", where=str(path), why=str(error.strerror)) from None
    if len(content) > _LARGEST_MANIFEST if size is None else len(content) != size:
        raise _refused(path, "it has another length than was written")
    return content


def _write(path: Path, content: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _named_in_manifest(folder: Path, number: str) -> bool:
    try:
        return number in (folder / _MANIFEST).read_text(errors="replace")
    except OSError:
        return False


def _remove_others(folder: Path, keep: set[str]) -> None:
    """Remove the previous checkpoint and what crashes left behind; of our own names only."""
    for path in folder.iterdir():
        ours = _NAMES.fullmatch(path.name) or path.name.startswith(f".{_MANIFEST}.")
        if ours and path.name not in keep:
            path.unlink(missing_ok=True)


def _check_key(key: bytes) -> None:
    if len(key) != 32:
        raise CheckpointError(
            f"a checkpoint key has 32 bytes, not {len(key)}", remedy="Use checkpoint_key()."
        )


def _refused(path: Path, why: str) -> CheckpointError:
    return CheckpointError(
        "the checkpoint is refused",
        where=str(path),
        why=f"{why[:1].upper()}{why[1:]}",
        remedy="Put the genuine one back, or start the run anew; what it spent stays in the ledger",
    )
