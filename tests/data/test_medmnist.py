# SPDX-License-Identifier: Apache-2.0
"""The npz reader: each kind of bad file ends in one DataError that names it."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from confide.data.medmnist import read_npz
from confide.errors import DataError


def arrays(rows: int = 4, **changed: object) -> dict[str, object]:
    found: dict[str, object] = {}
    for split in ("train", "val", "test"):
        found[f"{split}_images"] = np.arange(rows * 36, dtype=np.uint8).reshape(rows, 6, 6)
        found[f"{split}_labels"] = (np.arange(rows) % 2).astype(np.uint8)[:, None]
    return {key: value for key, value in {**found, **changed}.items() if value is not None}


def write(path: Path, **changed: object) -> Path:
    np.savez(path, **arrays(**changed))  # pyright: ignore[reportArgumentType]
    return path


def test_a_good_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    raw = read_npz(write(tmp_path / "good.npz"), 2)
    assert set(raw) == {"train", "validation", "test"}
    assert raw["train"].images.shape == (4, 1, 6, 6)
    np.testing.assert_array_equal(raw["train"].images.reshape(-1), np.arange(144, dtype=np.uint8))
    np.testing.assert_array_equal(raw["test"].labels, [0, 1, 0, 1])


def test_volumes_and_colour_images_have_their_channels_first(tmp_path: Path) -> None:
    cubes = {
        f"{split}_images": np.arange(4 * 512, dtype=np.uint16).astype(np.uint8).reshape(4, 8, 8, 8)
        for split in ("train", "val", "test")
    }
    assert read_npz(write(tmp_path / "cubes.npz", **cubes))["train"].images.shape == (4, 1, 8, 8, 8)
    colour = {f"{split}_images": np.zeros((4, 6, 6, 3), np.uint8) for split in ("train", "val", "test")}
    assert read_npz(write(tmp_path / "colour.npz", **colour))["test"].images.shape == (4, 3, 6, 6)


def nan_image() -> np.ndarray:
    images = np.zeros((4, 6, 6), dtype=np.float32)
    images[2, 1, 1] = np.nan
    return images


BAD = {
    "key missing": ({"val_labels": None}, "lacks val_labels"),
    "float64 images": ({"train_images": np.zeros((4, 6, 6))}, "float64"),
    "uint16 images": ({"train_images": np.zeros((4, 6, 6), np.uint16)}, "uint16"),
    "string images": ({"train_images": np.full((4, 6, 6), "a")}, "<U1"),
    "flat images": ({"train_images": np.zeros((4, 36), np.uint8)}, "shape"),
    "four channels": ({"train_images": np.zeros((4, 6, 6, 4), np.uint8)}, "shape"),
    "no images": (
        {"train_images": np.zeros((0, 6, 6), np.uint8), "train_labels": np.zeros((0, 1), np.uint8)},
        "shape",
    ),
    "other size in test": ({"test_images": np.zeros((4, 5, 5), np.uint8)}, "different shapes"),
    "NaN": ({"train_images": nan_image()}, "image 2 holds NaN"),
    "pixels to 255 as floats": ({"train_images": np.full((4, 6, 6), 255, np.float32)}, "range"),
    "negative pixels": ({"train_images": np.full((4, 6, 6), -1, np.float32)}, "range"),
    "float labels": ({"train_labels": np.zeros((4, 1))}, "float64"),
    "string labels": ({"train_labels": np.full((4, 1), "cat")}, "<U3"),
    "too few labels": ({"train_labels": np.zeros((3, 1), np.uint8)}, "shape"),
    "several labels": ({"train_labels": np.zeros((4, 14), np.uint8)}, "shape"),
    "label too high": ({"test_labels": np.full((4, 1), 2, np.uint8)}, "label 2"),
    "negative label": ({"test_labels": np.full((4, 1), -1, np.int8)}, "label -1"),
    "groups in one split": ({"train_groups": np.arange(4)}, "only some splits"),
    "float groups": ({"train_groups": np.arange(4.0)}, "float64"),
    "pickled objects": ({"train_images": np.array([{"a": 1}] * 4, dtype=object)}, "pickled"),
    "group on two sides": (
        {"train_groups": np.arange(4), "val_groups": np.arange(3, 7), "test_groups": np.arange(10, 14)},
        "both train and validation",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_arrays(kind: str, tmp_path: Path) -> None:
    changed, words = BAD[kind]
    path = write(tmp_path / "bad.npz", **changed)
    with pytest.raises(DataError) as caught:
        read_npz(path, 2)
    assert words in str(caught.value)
    assert "bad.npz" in str(caught.value)


class Trap:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("trapped",)


def raw_bytes(kind: str, good: bytes) -> bytes:
    return {
        "zero bytes": b"",
        "truncated": good[: len(good) // 2],
        "wrong magic": b"GIF89a" + good[6:],
        "bit-flipped": good[:200] + bytes(255 - b for b in good[200:260]) + good[260:],
        "a bare pickle": pickle.dumps(Trap()),
        "a text file": b"image,label\n",
    }[kind]


BYTES = ("zero bytes", "truncated", "wrong magic", "bit-flipped", "a bare pickle", "a text file")


@pytest.mark.parametrize("kind", BYTES)
def test_bad_bytes(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    good = write(tmp_path / "good.npz").read_bytes()
    bad = tmp_path / "bad.npz"
    bad.write_bytes(raw_bytes(kind, good))
    with pytest.raises(DataError, match=r"bad\.npz"):
        read_npz(bad, 2)
    assert not (tmp_path / "trapped").exists()


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_npz(tmp_path / "none.npz")
    with pytest.raises(DataError):
        read_npz(tmp_path)
