# SPDX-License-Identifier: Apache-2.0
"""Where files come from: a folder or a zip archive, read member by member and never extracted.

A zip member is refused when its name is absolute, climbs out with `..`, is a link, is encrypted, is an
archive itself,
or unpacks to far more than it holds. Since nothing is written, no member can overwrite a file.
"""

from __future__ import annotations

import os
import stat
import zipfile
import zlib
from abc import ABC, abstractmethod
from pathlib import Path, PurePosixPath

from confide.errors import DataError

MOST_BYTES = 1 << 28
_MOST_RATIO = 1000
_ARCHIVES = (".zip", ".tar", ".tgz", ".7z", ".rar", ".bz2", ".xz")


class Source(ABC):
    """Named files, read whole."""

    path: Path

    @abstractmethod
    def names(self) -> list[str]:
        """The names of all files, with `/` between folders, sorted."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """The bytes of one file.

        Raises:
            DataError: If it is missing, unreadable or larger than 256 MiB.
        """

    def where(self, name: str) -> str:
        """How an error names a file to the person who started the command."""
        return f"{self.path}/{name}"


class FolderSource(Source):
    """A folder and what lies below it; links that lead out of it are refused."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._root = path.resolve()

    def names(self) -> list[str]:
        """The names of all files."""
        found: list[str] = []
        try:
            # os.walk swallows errors unless told; a folder that cannot be read must not look empty.
            for folder, folders, files in os.walk(self.path, onerror=_refuse):
                folders[:] = [name for name in folders if not name.startswith((".", "__MACOSX"))]
                below = Path(folder).relative_to(self.path)
                found += [(below / name).as_posix() for name in files if not name.startswith(".")]
        except OSError as error:
            raise DataError(
                "the folder cannot be read", where=str(error.filename or self.path), why=str(error.strerror)
            ) from None
        return sorted(found)

    def read(self, name: str) -> bytes:
        """The bytes of one file."""
        path = self.path / name
        if not path.resolve().is_relative_to(self._root):
            raise DataError("the file leads out of its folder", where=self.where(name), remedy="Copy it in.")
        try:
            if path.stat().st_size > MOST_BYTES:
                raise DataError("the file is larger than 256 MiB", where=self.where(name))
            return path.read_bytes()
        except OSError as error:
            raise DataError(
                "the file cannot be read", where=self.where(name), why=str(error.strerror)
            ) from None


def _refuse(error: OSError) -> None:
    raise error


class ZipSource(Source):
    """A zip archive."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError) as error:
            raise DataError(
                "is not a readable zip archive",
                where=str(path),
                why=str(error)[:100],
                remedy="Fetch or copy it again.",
            ) from None
        self._members: dict[str, zipfile.ZipInfo] = {}
        try:
            for member in self._zip.infolist():
                if not member.is_dir():
                    self._check(member)
                    self._members[member.filename] = member
        except DataError:
            self._zip.close()
            raise

    def _check(self, member: zipfile.ZipInfo) -> None:
        name = member.filename
        path = PurePosixPath(name)
        reason = ""
        if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name:
            reason = "its name leads out of the archive"
        elif stat.S_ISLNK(member.external_attr >> 16):
            reason = "it is a link"
        elif member.flag_bits & 1:
            reason = "it is encrypted"
        elif path.suffix.lower() in _ARCHIVES:
            reason = "it is an archive inside the archive"
        elif member.file_size > MOST_BYTES or member.file_size > _MOST_RATIO * max(
            member.compress_size, 1024
        ):
            reason = f"it would unpack to {member.file_size:,} bytes"
        elif name in self._members:
            reason = "the archive holds two members of this name"
        if reason:
            raise DataError(
                f"refused: {reason}",
                where=self.where(name),
                remedy="Pack the folder again, plain files only.",
            )

    def names(self) -> list[str]:
        """The names of all files."""
        return sorted(name for name in self._members if not name.startswith("__MACOSX"))

    def read(self, name: str) -> bytes:
        """The bytes of one member; at most as many as the archive declares."""
        member = self._members.get(name)
        if member is None:
            raise DataError("there is no such member", where=self.where(name))
        try:
            with self._zip.open(member) as file:
                data = file.read(member.file_size + 1)
        except (
            zipfile.BadZipFile,
            OSError,
            EOFError,
            zlib.error,
            NotImplementedError,
            RuntimeError,
        ) as error:
            raise DataError("the member is damaged", where=self.where(name), why=str(error)[:60]) from None
        if len(data) > member.file_size:
            raise DataError("the member is larger than the archive says", where=self.where(name))
        return data


def open_source(path: Path) -> Source:
    """The source at a path.

    Raises:
        DataError: If there is neither a folder nor a zip archive.
    """
    if path.is_dir():
        return FolderSource(path)
    if not path.exists():
        raise DataError("there is no such file or folder", where=str(path))
    if path.suffix.lower() == ".zip":
        return ZipSource(path)
    raise DataError(
        "is neither a folder nor a zip archive",
        where=str(path),
        remedy="Name a folder, a zip or an npz file.",
    )
