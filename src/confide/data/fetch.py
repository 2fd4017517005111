# SPDX-License-Identifier: Apache-2.0
"""Download a data set from its official source: resumed where it broke off, checked, and only then given
its name."""

from __future__ import annotations

import hashlib
import http.client
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from confide.data.entries import ENTRIES
from confide.errors import DataError

Progress = Callable[[int, int], None]
_BLOCK = 1 << 16
_TIMEOUT = 30.0


@dataclass(frozen=True)
class Fetched:
    """A file that is here now.

    Attributes:
        verified: Whether the publisher's checksum is known and was compared.
    """

    path: Path
    sha256: str
    verified: bool


def target_folder() -> Path:
    """Where fetched files go: CONFIDE_DATA, or the user's cache folder."""
    from platformdirs import user_cache_path

    named = os.environ.get("CONFIDE_DATA")
    return Path(named) if named else user_cache_path("confide") / "data"


def fetch(name: str, *, size: int | None = None, progress: Progress | None = None) -> Fetched:
    """Download a catalogue entry.

    Raises:
        DataError: If it is unknown, has no open source, cannot be reached, or arrives damaged.
    """
    info = ENTRIES.get(name) or ENTRIES.get(name.lower())
    if info is None:
        raise DataError(f"there is no data set {name!r}", remedy="See: confide data list --all")
    name, folder = info.name, target_folder()
    if not info.url:
        raise DataError(
            f"{name!r} cannot be downloaded by confide",
            why=f"Its terms ({info.licence}) or its source ask for a download by hand. "
            f"Source: {info.citation}.",
            remedy=f"Put {info.file or f'{name}.npz'} into {folder}.",
        )
    if not info.sizes:
        if size is not None:
            raise DataError(f"{name!r} is offered at one size", remedy="Leave --size out.")
        target = folder / PurePosixPath(urllib.parse.urlsplit(info.url).path).name
        return download(info.url, target, md5="".join(info.md5), progress=progress)
    size = size or info.sizes[0]
    if size not in info.sizes:
        raise DataError(
            f"{name!r} is not offered at {size} pixels", remedy=f"Sizes: {', '.join(map(str, info.sizes))}."
        )
    suffix = "" if size == 28 else f"_{size}"
    return download(
        info.url.replace(".npz", f"{suffix}.npz"),
        folder / f"{name}{suffix}.npz",
        md5=info.md5[info.sizes.index(size)],
        progress=progress,
    )


def download(
    url: str, path: Path, *, md5: str = "", sha256: str = "", progress: Progress | None = None
) -> Fetched:
    """Download a file; what arrived before an interruption is kept in `path`.part and continued.

    Raises:
        DataError: If the source cannot be reached, the disk is full, or a checksum differs.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            _receive(url, part, progress)
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", "") or str(error) or type(error).__name__
        raise DataError(
            "the source cannot be reached",
            where=url,
            why=f"{reason}.",
            remedy="Run the command again: it goes on where it stopped. "
            f"Without a network, copy the file to {path}.",
        ) from None
    except OSError as error:
        raise DataError("cannot be written", where=str(part), why=str(error.strerror or error)) from None
    arrived = path if path.exists() else part
    found = {kind: _digest(arrived, kind) for kind in ("md5", "sha256")}
    for kind, expected in (("md5", md5), ("sha256", sha256)):
        if expected and found[kind] != expected:
            if arrived == part:
                part.unlink()
            raise DataError(
                "the file is not the one that was published",
                where=str(arrived),
                why=f"Its {kind} is {found[kind]}, expected {expected}.",
                remedy="Run the command again."
                if arrived == part
                else "Move it away and run the command again.",
            )
    if arrived == part:
        part.rename(path)
    return Fetched(path, found["sha256"], bool(md5 or sha256))


def _receive(url: str, part: Path, progress: Progress | None) -> None:
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416 and have:
                return  # nothing is left to send; the checksum decides
            raise urllib.error.URLError(f"the server answered {error.code}") from None
    with response:
        # A server that knows no ranges sends everything again, with 200 instead of 206.
        have = have if response.status == 206 else 0
        total = have + int(response.headers.get("Content-Length") or 0)
        with part.open("ab" if have else "wb") as file:
            while block := response.read(_BLOCK):
                file.write(block)
                have += len(block)
                if progress is not None:
                    progress(have, total)
            file.flush()
            os.fsync(file.fileno())
        if total and have < total:
            raise ConnectionError(f"{have} of {total} bytes arrived")


def _digest(path: Path, kind: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(kind, usedforsecurity=False)).hexdigest()
