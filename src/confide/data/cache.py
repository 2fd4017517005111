# SPDX-License-Identifier: Apache-2.0
"""Decoded images on disk, mapped into memory: decoded once, then read at the speed of memory.

An entry is a folder named by a keyed digest of all that went into it. It is written under another name,
flushed, and
renamed when whole, so that a writer killed at any instant leaves nothing that could be taken for an entry.
It holds
pixels, targets and row numbers; file names and ids are not in it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from confide.errors import DataError

VERSION = 1


@dataclass(frozen=True)
class Entry:
    """A whole entry.

    Attributes:
        images: (N, C, H, W) uint8 memory map.
        targets: (N,) int64, or (N, H, W) uint8 masks.
        kept: (N,) which records these are, ascending.
        bad: Number of a record that was left out -> why, without its name.
    """

    images: NDArray[np.uint8]
    targets: NDArray[Any]
    kept: NDArray[np.int64]
    bad: dict[int, str] = field(default_factory=dict)


def cache_folder() -> Path:
    """Where entries lie: CONFIDE_CACHE, or the user's cache folder."""
    from platformdirs import user_cache_path

    named = os.environ.get("CONFIDE_CACHE")
    return Path(named) if named else user_cache_path("confide") / "ingested"


def open_entry(digest: str) -> Entry | None:
    """The entry of this digest, if it is there and whole."""
    folder = cache_folder() / digest
    try:
        facts = json.loads((folder / "entry.json").read_text(encoding="utf-8"))
        if facts["version"] != VERSION:
            return None
        rows, image, mask = facts["rows"], tuple(facts["image"]), facts["mask"]
        kept = np.fromfile(folder / "kept.bin", dtype="<i8")
        images = np.memmap(folder / "images.bin", dtype=np.uint8, mode="r", shape=(rows, *image))
        targets: NDArray[Any]
        if mask:
            targets = np.memmap(folder / "targets.bin", dtype=np.uint8, mode="r", shape=(rows, *image[1:]))
        else:
            targets = np.fromfile(folder / "targets.bin", dtype="<i8")
        if len(kept) != rows or len(targets) != rows:
            return None
        return Entry(images, targets, kept, {int(row): why for row, why in facts["bad"].items()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


class EntryWriter:
    """Writes an entry row by row; use as a context. Leaving it by an error leaves nothing behind.

    Rows are written, not mapped: a full disk is then an error, where a mapped page would kill the process.
    """

    def __init__(self, digest: str, image: tuple[int, int, int], *, mask: bool) -> None:
        self.digest, self.image, self.mask = digest, image, mask
        self.kept: list[int] = []
        self.bad: dict[int, str] = {}
        root = cache_folder()
        self._folder = root / f"{digest}.{os.getpid()}.part"
        self._files: dict[str, BinaryIO] = {}
        try:
            # Decoded images of patients are for their owner's eyes.
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            _sweep(root)
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder.mkdir(mode=0o700)
            for name in ("images", "targets"):
                self._files[name] = (self._folder / f"{name}.bin").open("wb")
        except OSError as error:
            raise self._failed(error) from None

    def add(self, record: int, image: NDArray[np.uint8], target: int | NDArray[np.uint8]) -> None:
        """One image (C, H, W) with its class or its mask (H, W)."""
        self.kept.append(record)
        try:
            self._files["images"].write(image.tobytes())
            self._files["targets"].write(
                np.asarray(target, dtype="<i8").tobytes() if isinstance(target, int) else target.tobytes()
            )
        except OSError as error:
            raise self._failed(error) from None

    def _failed(self, error: OSError) -> DataError:
        return DataError(
            "the cache cannot be written",
            where=str(self._folder.parent),
            why=str(error.strerror or error),
            remedy="Make room there, or name another folder in CONFIDE_CACHE.",
        )

    def _finish(self) -> None:
        facts = {
            "version": VERSION,
            "rows": len(self.kept),
            "image": self.image,
            "mask": self.mask,
            "bad": self.bad,
        }
        np.asarray(self.kept, dtype="<i8").tofile(self._folder / "kept.bin")
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
            file.close()
        with (self._folder / "entry.json").open("w", encoding="utf-8") as file:
            json.dump(facts, file)
            file.flush()
            os.fsync(file.fileno())
        final = self._folder.parent / self.digest
        if final.exists() and open_entry(self.digest) is None:
            shutil.rmtree(final)
        # Another writer of the same content may have been faster; its entry is as good.
        if not final.exists():
            self._folder.rename(final)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
        except OSError as failure:
            raise self._failed(failure) from None
        finally:
            for file in self._files.values():
                # What is left in its buffer is thrown away with the folder.
                with contextlib.suppress(OSError):
                    file.close()
            shutil.rmtree(self._folder, ignore_errors=True)


def _sweep(root: Path) -> None:
    """Remove what writers that are no longer alive left behind."""
    for left in root.glob("*.part"):
        number = left.name.split(".")[-2]
        if number.isdecimal() and not Path(f"/proc/{number}").exists() and Path("/proc/self").exists():
            shutil.rmtree(left, ignore_errors=True)
