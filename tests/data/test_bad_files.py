# SPDX-License-Identifier: Apache-2.0
"""Bad files, made here: each ends in one DataError naming the file and the reason, or is listed by
--skip-bad.

Together with those of test_medmnist.py these are the corpus of issue 6; its size is printed by
`test_the_corpus_is_large_enough`.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import stat
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.data.builders import (
    HEAD,
    ROWS,
    dicom,
    encoded,
    good_folder,
    grey,
    pairs,
    rgb,
    table_set,
    volume,
)

from confide.data.catalog import load
from confide.data.decode import decode
from confide.data.sources import FolderSource
from confide.errors import DataError


def flipped(data: bytes, start: int, count: int) -> bytes:
    return data[:start] + bytes(255 - b for b in data[start : start + count]) + data[start + count :]


def png_of_size(width: int, height: int) -> bytes:
    """A header that promises pixels which are not there."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


def animated(kind: str) -> bytes:
    return encoded(rgb(), kind, save_all=True, append_images=[rgb(), rgb()])


def float_tiff(value: float) -> bytes:
    pixels = np.full((20, 20), 0.5, np.float32)
    pixels[3, 3] = value
    return encoded(Image.fromarray(pixels), "TIFF")


IMAGES: dict[str, tuple[Callable[[], bytes], str]] = {
    "zero bytes": (lambda: b"", "empty"),
    "text called png": (lambda: b"hello, I am no image at all" * 9, "no image of a supported"),
    "truncated png": (lambda: encoded(grey())[:300], "damaged"),
    "truncated jpeg": (lambda: encoded(rgb(), "JPEG")[:400], "damaged"),
    "truncated bmp": (lambda: encoded(rgb(), "BMP")[:200], "damaged"),
    "truncated tiff": (lambda: encoded(rgb(), "TIFF")[:900], ""),
    "png with flipped bits": (lambda: flipped(encoded(grey()), 60, 40), "damaged"),
    "png with a flipped header": (lambda: flipped(encoded(grey()), 10, 12), ""),
    "tiff with a flipped header": (lambda: flipped(encoded(rgb(), "TIFF"), 4, 4), ""),
    "wrong magic": (lambda: b"\x00" + encoded(grey())[1:], "no image of a supported"),
    "gif": (lambda: encoded(grey(), "GIF"), "no image of a supported"),
    "webp": (lambda: encoded(rgb(), "WEBP"), "no image of a supported"),
    "pdf": (lambda: b"%PDF-1.7\n" + bytes(500), "no image of a supported"),
    "eps": (lambda: encoded(rgb(), "EPS"), "no image of a supported"),
    "animated png": (lambda: animated("PNG"), "3 frames"),
    "tiff with pages": (lambda: animated("TIFF"), "3 frames"),
    "bomb of 20k×20k": (lambda: png_of_size(20_000, 20_000), "pixels"),
    "large bomb": (lambda: png_of_size(9_000, 9_000), "pixels"),
    "huge bomb": (lambda: png_of_size(2**30, 2**30), ""),
    "no pixels": (lambda: png_of_size(0, 10), ""),
    "pixels missing": (lambda: png_of_size(50, 50), "damaged"),
    "tiff with NaN": (lambda: float_tiff(float("nan")), "not within [0, 1]"),
    "tiff beyond 1": (lambda: float_tiff(7.0), "not within [0, 1]"),
    "32-bit integers": (
        lambda: encoded(Image.fromarray(np.full((9, 9), 1 << 20, np.int32)), "TIFF"),
        "not within 16 bits",
    ),
    "npy of floats": (lambda: npy(np.zeros((4, 4))), "float64"),
    "npy of objects": (lambda: npy(np.array([[{}]], dtype=object)), "plain numbers"),
    "dicom truncated": (lambda: dicom()[:-200], "cannot be decoded"),
    "dicom header only": (lambda: dicom()[:140], ""),
    "dicom with flipped bits": (lambda: flipped(dicom(), 132, 60), ""),
    "dicom without pixels": (lambda: dicom(PixelData=None), "no PixelData"),
    "dicom without rows": (lambda: dicom(Rows=None), "does not say its size"),
    "dicom with frames": (
        lambda: dicom(np.zeros((3, 20, 20), np.uint16), NumberOfFrames=3),
        "3 frames",
    ),
    "dicom, wrong photometric": (lambda: dicom(PhotometricInterpretation="HSV"), "photometric"),
    "dicom, RGB with one sample": (lambda: dicom(PhotometricInterpretation="RGB"), "contradict"),
    "dicom, 12 bits allocated": (lambda: dicom(BitsAllocated=12), "neither 8 nor 16"),
    "dicom too large": (lambda: dicom(Rows=60_000, Columns=60_000), "pixels"),
    "dicom, rescale not finite": (lambda: dicom(RescaleSlope="1e400", RescaleIntercept="0"), ""),
    "dicom, window of width 0": (lambda: dicom(WindowCenter="40", WindowWidth="0"), "not finite"),
    "dicom, more rows than pixels": (lambda: dicom(Rows=30), "cannot be decoded"),
}


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


@pytest.mark.parametrize("kind", IMAGES)
def test_a_bad_image_stops_or_is_skipped(kind: str, tmp_path: Path, own_folders: Path) -> None:
    make, words = IMAGES[kind]
    folder = good_folder(tmp_path / "set")
    bad = folder / "train" / "ill" / "bad-one.png"
    bad.write_bytes(make())
    with pytest.raises(DataError) as caught:
        load(folder, size=16, channels=1)
    assert "bad-one.png" in str(caught.value)
    assert words in str(caught.value)
    assert not list((own_folders / "cache").iterdir()), "a failed reading leaves nothing behind"
    splits = load(folder, size=16, channels=1, skip_bad=True)
    assert [Path(name).name for name, _ in splits.bad] == ["bad-one.png"]
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (12, 12, 12)
    # A second reading comes from the cache and says the same.
    assert load(folder, size=16, channels=1, skip_bad=True).bad == splits.bad


TABLES: dict[str, tuple[str | bytes, str]] = {
    "not UTF-8": ((HEAD + ROWS).encode() + b"\xff\xfe", "not UTF-8"),
    "UTF-16": ((HEAD + ROWS).encode("utf-16"), "not UTF-8"),
    "zero bytes": (b"", "no rows"),
    "header only": (HEAD, "no rows"),
    "binary": (b"\x00\x01" * 90, "not a text file"),
    "missing file": (HEAD + ROWS + "9.png,1,p9,train\n", "line 8 names a file that is not there"),
    "file outside": (HEAD + ROWS + "../secret.png,1,p9,train\n", "not there"),
    "row twice": (HEAD + ROWS + "0.png,0,p0,train\n", "line 8 names an image for the second time"),
    "empty patient": (HEAD + ROWS.replace("p3", ""), "line 5 has no patient"),
    "blank patient": (HEAD + ROWS.replace("p3", "  "), "line 5 has no patient"),
    "empty label": (HEAD + ROWS.replace("3.png,1", "3.png,"), "line 5 has no label"),
    "empty name": (HEAD + ROWS.replace("3.png", ""), "line 5 has no image"),
    "unknown split": (HEAD + ROWS.replace("val", "holdout"), "holdout"),
    "labels are measurements": (HEAD + ROWS.replace("3.png,1", "3.png,0.7"), "measurements"),
    "ragged": (HEAD + ROWS + "1.png,1\n", "more or fewer cells"),
    "no label column": ((HEAD + ROWS).replace("label", "finding"), "no column for the label"),
    "no image column": ((HEAD + ROWS).replace("image", "picture"), "no column for the image"),
    "column twice": ((HEAD + ROWS).replace("split", "label"), "same name"),
    "patient on two sides": (HEAD + ROWS.replace("p5", "p0"), "1 of the units are in more than one split"),
    "unclosed quote": (HEAD + '"0.png,0,p0,train\n', "no readable table"),
}


@pytest.mark.parametrize("kind", TABLES)
def test_a_bad_table_stops(kind: str, tmp_path: Path) -> None:
    text, words = TABLES[kind]
    folder = table_set(tmp_path / "set", text)
    with pytest.raises(DataError, match="set") as caught:
        load(folder, size=16)
    assert words in str(caught.value)


def test_bad_lines_can_be_skipped_and_are_listed(tmp_path: Path) -> None:
    more = "9.png,1,p9,train\n0.png,0,p0,train\n3.png,1,,val\n"
    splits = load(table_set(tmp_path / "set", HEAD + ROWS + more), size=16, skip_bad=True)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (2, 2, 2)
    reasons = ["line 8 names a file that is not there", "line 9 names an image for the second time"]
    assert [why for _, why in splits.bad][:2] == reasons
    assert len(splits.bad) == 3
    assert all(where.endswith("labels.csv") for where, _ in splits.bad)


def zipped(members: dict[str, bytes], change: Callable[[zipfile.ZipInfo], None] | None = None) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            info = zipfile.ZipInfo("x")
            info.filename, info.compress_type = name, zipfile.ZIP_DEFLATED
            if change is not None:
                change(info)
            archive.writestr(info, data)
    return file.getvalue()


def as_link(info: zipfile.ZipInfo) -> None:
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16


def whole_set(**first: bytes) -> dict[str, bytes]:
    members = {f"test/ill/{name}.png": data for name, data in first.items()}
    for split in ("train", "val", "test"):
        members |= {
            f"{split}/{label}/{i}.png": encoded(grey()) for label in ("ill", "well") for i in range(3)
        }
    return members


def damaged_zip() -> bytes:
    return flipped(zipped(whole_set(bad=encoded(grey(90)))), 80, 60)


def lying_zip() -> bytes:
    """A member that unpacks to more than its header and the directory say."""
    data = zipped(whole_set(bad=bytes(50_000)))
    return data.replace(struct.pack("<I", 50_000), struct.pack("<I", 50))


ZIPS: dict[str, tuple[Callable[[], bytes], str]] = {
    "climbing out": (lambda: zipped({"../../evil.png": b"x"}), "leads out"),
    "absolute": (lambda: zipped({"/etc/evil.png": b"x"}), "leads out"),
    "backslashes": (lambda: zipped({"a\\..\\evil.png": b"x"}), "leads out"),
    "drive": (lambda: zipped({"C:/evil.png": b"x"}), "leads out"),
    "link": (lambda: zipped({"ill/a.png": b"/etc/passwd"}, as_link), "it is a link"),
    "nested": (lambda: zipped({"ill/a.zip": zipped({"b.png": b"x"})}), "archive inside"),
    "bomb": (lambda: zipped({"ill/a.png": bytes(200 << 20)}), "would unpack"),
    "truncated": (lambda: zipped({"ill/a.png": encoded(grey())})[:-40], "no readable zip|not a readable zip"),
    "zero bytes": (lambda: b"", "not a readable zip"),
    "no images": (lambda: zipped({"readme.txt": b"x"}), "holds no images"),
    "damaged member": (damaged_zip, r"bad\.png.*damaged"),
    "lying about sizes": (lying_zip, r"bad\.png.*(damaged|larger)"),
}


@pytest.mark.parametrize("kind", ZIPS)
def test_a_bad_zip_stops_and_writes_nothing(kind: str, tmp_path: Path, own_folders: Path) -> None:
    make, words = ZIPS[kind]
    path = tmp_path / "set.zip"
    path.write_bytes(make())
    before = set(tmp_path.rglob("*"))
    with pytest.raises(DataError, match=words) as caught:
        load(path, size=16)
    assert "set.zip" in str(caught.value)
    assert set(tmp_path.rglob("*")) == before


def tarred(*members: tuple[str, bytes], **changed: object) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for key, value in changed.items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def gzipped() -> bytes:
    import gzip

    return gzip.compress(tarred(("ill/a.png", encoded(grey()))))


TARS: dict[str, tuple[Callable[[], bytes], str]] = {
    "climbing out": (lambda: tarred(("../evil.png", b"x")), "leads out"),
    "absolute": (lambda: tarred(("/etc/evil.png", b"x")), "leads out"),
    "link": (lambda: tarred(("ill/a.png", b""), type=tarfile.SYMTYPE, linkname="/etc/passwd"), "a link"),
    "hard link": (lambda: tarred(("ill/a.png", b""), type=tarfile.LNKTYPE, linkname="/etc/passwd"), "a link"),
    "device": (lambda: tarred(("ill/a.png", b""), type=tarfile.CHRTYPE), "no plain file"),
    "nested": (lambda: tarred(("ill/a.zip", b"x")), "archive inside"),
    "twice": (lambda: tarred(("ill/a.png", b"x"), ("./ill/a.png", b"y")), "two members"),
    "no tar": (lambda: b"hello" * 400, "no readable tar|not a readable tar"),
    "compressed": (gzipped, "unpack it if it is compressed"),
    "truncated": (lambda: tarred(("ill/a.png", bytes(5000)), ("well/b.png", b"x"))[:2000], "tar archive"),
}


@pytest.mark.parametrize("kind", TARS)
def test_a_bad_tar_stops_and_writes_nothing(kind: str, tmp_path: Path) -> None:
    make, words = TARS[kind]
    path = tmp_path / "set.tar"
    path.write_bytes(make())
    with pytest.raises(DataError, match=words) as caught:
        load(path, size=16)
    assert "set.tar" in str(caught.value)
    assert [found.name for found in tmp_path.iterdir()] == ["set.tar"]


def nan_volume() -> np.ndarray:
    array = np.zeros((8, 8, 3), np.float32)
    array[1, 2, 1] = np.nan
    return array


VOLUMES: dict[str, tuple[Callable[[], bytes], Callable[[], bytes], str]] = {
    "NaN": (lambda: volume(nan_volume()), lambda: volume(np.zeros((8, 8, 3), np.uint8)), "NaN"),
    "4-D": (
        lambda: volume(np.zeros((8, 8, 3, 2), np.float32)),
        lambda: volume(np.zeros((8, 8, 3), np.uint8)),
        "shape",
    ),
    "2-D": (
        lambda: volume(np.zeros((8, 8), np.float32)),
        lambda: volume(np.zeros((8, 8, 3), np.uint8)),
        "shape",
    ),
    "truncated": (
        lambda: volume(np.zeros((8, 8, 3), np.float32))[:60],
        lambda: volume(np.zeros((8, 8, 3), np.uint8)),
        "damaged",
    ),
    "no NIfTI": (lambda: b"hello" * 200, lambda: volume(np.zeros((8, 8, 3), np.uint8)), "no readable NIfTI"),
    "fewer slices": (
        lambda: volume(np.zeros((8, 8, 2), np.float32)),
        lambda: volume(np.zeros((8, 8, 3), np.uint8)),
        "slices",
    ),
    "mask of other size": (
        lambda: volume(np.zeros((8, 8, 3), np.float32)),
        lambda: volume(np.zeros((9, 8, 3), np.uint8)),
        "the mask is",
    ),
    "undeclared class": (
        lambda: volume(np.zeros((8, 8, 3), np.float32)),
        lambda: volume(np.full((8, 8, 3), 7, np.uint8)),
        "undeclared",
    ),
    "broken mask": (lambda: volume(np.zeros((8, 8, 3), np.float32)), lambda: b"", "no readable NIfTI"),
}


@pytest.mark.parametrize("kind", VOLUMES)
def test_a_bad_volume_stops(kind: str, tmp_path: Path) -> None:
    image, mask, words = VOLUMES[kind]
    for folder in ("imagesTr", "labelsTr"):
        (tmp_path / folder).mkdir()
        for i in range(25):
            good = np.zeros((8, 8, 3), np.uint8 if folder == "labelsTr" else np.float32)
            (tmp_path / folder / f"{i}.nii.gz").write_bytes(volume(good))
    (tmp_path / "imagesTr" / "bad.nii.gz").write_bytes(image())
    (tmp_path / "labelsTr" / "bad.nii.gz").write_bytes(mask())
    with pytest.raises(DataError, match=r"bad\.nii\.gz") as caught:
        load(tmp_path, size=8)
    assert words in str(caught.value)
    splits = load(tmp_path, size=8, skip_bad=True)
    assert splits.bad and all("bad.nii.gz" in where for where, _ in splits.bad)
    # 25 good patients of three slices each; of a volume with fewer slices than its mask two are left.
    left = sum(map(len, (splits.train, splits.validation, splits.test)))
    assert left == (77 if kind == "fewer slices" else 75)


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (None, "no mask"),
        (Image.new("L", (41, 40)), "the mask is 41×40, its image 40×40"),
        (Image.new("L", (40, 40), 7), "the value 7"),
    ],
)
def test_a_bad_mask_stops(mask: Image.Image | None, words: str, tmp_path: Path) -> None:
    folder = pairs(tmp_path / "set", mask)
    with pytest.raises(DataError, match=words):
        load(folder, size=16)
    splits = load(folder, size=16, skip_bad=True)
    assert len(splits.bad) == 1 and words in splits.bad[0][1]
    assert len(splits.train) + len(splits.validation) + len(splits.test) == 30


def test_the_corpus_is_large_enough() -> None:
    from tests.data.test_medmnist import BAD, BYTES

    count = sum(map(len, (IMAGES, TABLES, ZIPS, TARS, VOLUMES, BAD, BYTES)))
    print(f"{count} bad files")
    assert count >= 60


def test_a_full_disk_is_one_error_and_leaves_nothing(tmp_path: Path, own_folders: Path) -> None:
    import resource

    folder = good_folder(tmp_path / "set")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # A file may not grow beyond 4 kB: what a full disk does to a writer, for this process alone.
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(DataError, match="cache cannot be written"):
            load(folder, size=64)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list((own_folders / "cache").iterdir())
    assert len(load(folder, size=64).train) == 12


@pytest.fixture
def open_place() -> Iterator[Path]:
    """A folder that others may enter: pytest's own is root's alone where root runs the tests."""
    place = Path(tempfile.mkdtemp())
    place.chmod(0o755)
    yield place
    shutil.rmtree(place)


@contextlib.contextmanager
def nobody() -> Iterator[None]:
    """Root reads everything; for a moment this process is somebody else."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_an_unreadable_folder_and_file(open_place: Path) -> None:
    folder = good_folder(open_place / "set")
    locked = folder / "train" / "ill"
    locked.chmod(0)
    try:
        with nobody(), pytest.raises(DataError, match="cannot be read"):
            load(folder)
    finally:
        locked.chmod(0o755)
    locked = locked / "train-ill-0.png"
    locked.chmod(0)
    with nobody(), pytest.raises(DataError, match=r"train-ill-0\.png.*cannot be read"):
        FolderSource(folder).read("train/ill/train-ill-0.png")


def test_a_link_that_leads_out_is_refused(tmp_path: Path) -> None:
    folder = good_folder(tmp_path / "set")
    (tmp_path / "secret.png").write_bytes(encoded(grey()))
    (folder / "train" / "ill" / "link.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(DataError, match="leads out"):
        load(folder, size=16)


def test_unusual_but_good_images_are_read_right() -> None:
    """16 bits, palette, CMYK, 1 bit, transparency, EXIF: each against what its pixels mean."""

    def read(data: bytes, channels: int = 1) -> np.ndarray:
        return decode(data, "x", size=8, channels=channels)

    sixteen = Image.fromarray(np.full((8, 8), 51 * 257, np.uint16))
    assert (read(encoded(sixteen)) == 51).all()
    assert (read(encoded(Image.new("RGB", (8, 8), (250, 0, 0)).quantize()), 3)[0] == 250).all()
    cmyk = read(encoded(Image.new("CMYK", (8, 8), (0, 0, 0, 0)), "JPEG"), 3)
    assert (cmyk > 250).all()
    assert (read(encoded(Image.new("1", (8, 8), 1))) == 255).all()
    assert (read(encoded(Image.new("RGBA", (8, 8), (255, 255, 255, 0))), 3) == 0).all()
    top = np.zeros((8, 8, 3), np.uint8)
    top[:4] = 255
    exif = Image.Exif()
    exif[0x0112] = 3
    turned = read(encoded(Image.fromarray(top), "TIFF", exif=exif))
    assert turned[0, 0].max() == 0 and turned[0, 7].min() == 255
