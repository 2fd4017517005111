# SPDX-License-Identifier: Apache-2.0
"""Where files come from: a folder, a zip or a plain tar archive, read member by member and never extracted.

A member is refused when its name is absolute, climbs out with `..`, is a link, is encrypted, is an archive
itself, or unpacks to far more than it holds. Since nothing is written, no member can overwrite a file.
"""

from __future__ import annotations

import os
import stat
import tarfile
import zipfile
import zlib
from abc import ABC, abstractmethod
from pathlib import Path, PurePosixPath

from confide.errors import DataError

MOST_BYTES = 1 << 28
MOST_VOLUME = 1 << 30
_MOST_RATIO = 1000
_ARCHIVES = (".zip", ".tar", ".tgz", ".7z", ".rar", ".bz2", ".xz")


def most_bytes(name: str) -> int:
    """The largest file that is read: 256 MiB, of a NIfTI volume 1 GiB."""
    return MOST_VOLUME if name.lower().endswith((".nii", ".nii.gz")) else MOST_BYTES


def _hidden(name: str) -> bool:
    """Whether a system put the file there, not a person: `.DS_Store`, `._x`, `__MACOSX/x`."""
    return any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(name).parts)


def refused(name: str, size: int) -> str:
    """Why an archive's member is refused for its name or its size; "" if it is not."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name:
        return "its name leads out of the archive"
    if path.suffix.lower() in _ARCHIVES:
        return "it is an archive inside the archive"
    if size > most_bytes(name):
        return f"it would unpack to {size:,} bytes"
    return ""


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
            DataError: If it is missing, unreadable or larger than `most_bytes`.
        """

    def head(self, name: str, count: int) -> bytes:
        """The first bytes of one file."""
        return self.read(name)[:count]

    def identity(self, name: str) -> bytes:
        """What a digest of the content takes in for a file: nothing of how it is shown."""
        return self.read(name)

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
                folders[:] = [name for name in folders if not _hidden(name)]
                below = Path(folder).relative_to(self.path)
                found += [(below / name).as_posix() for name in files if not _hidden(name)]
        except OSError as error:
            raise DataError(
                "the folder cannot be read", where=str(error.filename or self.path), why=str(error.strerror)
            ) from None
        return sorted(found)

    def read(self, name: str) -> bytes:
        """The bytes of one file."""
        return self._start(name, None)

    def head(self, name: str, count: int) -> bytes:
        """The first bytes of one file."""
        return self._start(name, count)

    def _start(self, name: str, count: int | None) -> bytes:
        path = self.path / name
        if not path.resolve().is_relative_to(self._root):
            raise DataError("the file leads out of its folder", where=self.where(name), remedy="Copy it in.")
        try:
            if path.stat().st_size > most_bytes(name):
                raise DataError(
                    f"the file is larger than {most_bytes(name) >> 20} MiB", where=self.where(name)
                )
            with path.open("rb") as file:
                return file.read(-1 if count is None else count)
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
        reason = refused(name, member.file_size)
        if stat.S_ISLNK(member.external_attr >> 16):
            reason = "it is a link"
        elif member.flag_bits & 1:
            reason = "it is encrypted"
        elif not reason and member.file_size > _MOST_RATIO * max(member.compress_size, 1024):
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
        return sorted(name for name in self._members if not _hidden(name))

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


class TarSource(Source):
    """A tar archive that is not compressed as a whole, read where each member lies in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._places: dict[str, tuple[int, int]] = {}
        try:
            with tarfile.open(path, "r:") as archive:
                for member in archive:
                    self._add(member)
        except (tarfile.TarError, OSError, EOFError, ValueError) as error:
            raise DataError(
                "is not a readable tar archive",
                where=str(path),
                why=str(error)[:100],
                remedy="Fetch or copy it again; unpack it if it is compressed.",
            ) from None

    def _add(self, member: tarfile.TarInfo) -> None:
        if member.isdir():
            return
        reason = refused(member.name, member.size)
        if not member.isreg() or member.issparse():
            reason = "it is a link or no plain file"
        name = PurePosixPath(member.name).as_posix()
        if name in self._places:
            reason = "the archive holds two members of this name"
        if reason:
            raise DataError(f"refused: {reason}", where=self.where(member.name))
        self._places[name] = (member.offset_data, member.size)

    def names(self) -> list[str]:
        """The names of all files."""
        return sorted(name for name in self._places if not _hidden(name))

    def read(self, name: str) -> bytes:
        """The bytes of one member."""
        if name not in self._places:
            raise DataError("there is no such member", where=self.where(name))
        start, size = self._places[name]
        try:
            with self.path.open("rb") as file:
                file.seek(start)
                data = file.read(size)
        except OSError as error:
            raise DataError(
                "the archive cannot be read", where=self.where(name), why=str(error.strerror)
            ) from None
        if len(data) < size:
            raise DataError("the archive ends within this member", where=self.where(name))
        return data


def open_source(path: Path) -> Source:
    """The source at a path.

    Raises:
        DataError: If there is neither a folder nor an archive.
    """
    if path.is_dir():
        return FolderSource(path)
    if not path.exists():
        raise DataError("there is no such file or folder", where=str(path))
    if path.suffix.lower() == ".zip":
        return ZipSource(path)
    if path.suffix.lower() == ".tar":
        return TarSource(path)
    raise DataError(
        "is neither a folder nor an archive",
        where=str(path),
        remedy="Name a folder, a zip, a tar or an npz file.",
    )
