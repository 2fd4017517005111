# SPDX-License-Identifier: Apache-2.0
"""Small files and folders that the data tests are made of."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import numpy as np
from PIL import Image

HEAD = "image,label,patient,split\n"
ROWS = "".join(
    f"{i}.png,{i % 2},p{i},{s}\n" for i, s in enumerate(("train", "train", "val", "val", "test", "test"))
)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng().integers(0, 256, shape, dtype=np.uint8)


def grey(side: int = 40) -> Image.Image:
    return Image.fromarray(noise(side, side))


def rgb(side: int = 40) -> Image.Image:
    return Image.fromarray(noise(side, side, 3))


def dicom(pixels: np.ndarray | None = None, **changed: object) -> bytes:
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    pixels = np.arange(400, dtype=np.uint16).reshape(20, 20) if pixels is None else pixels
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = CTImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid()
    dataset.Rows, dataset.Columns = pixels.shape[-2:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    bits = pixels.dtype.itemsize * 8
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = bits, bits, bits - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.PixelData = pixels.tobytes()
    for name, value in changed.items():
        if value is None:
            delattr(dataset, name)
        else:
            setattr(dataset, name, value)
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def good_folder(folder: Path, rows: int = 6) -> Path:
    for split in ("train", "val", "test"):
        for label in ("ill", "well"):
            (folder / split / label).mkdir(parents=True)
            for i in range(rows):
                (folder / split / label / f"{split}-{label}-{i}.png").write_bytes(encoded(grey()))
    return folder


def table_set(folder: Path, text: str | bytes, name: str = "labels.csv") -> Path:
    folder.mkdir()
    for i in range(6):
        (folder / f"{i}.png").write_bytes(encoded(grey()))
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def volume(array: np.ndarray) -> bytes:
    import nibabel

    return gzip.compress(nibabel.Nifti1Image(array, np.eye(4)).to_bytes())


def pairs(folder: Path, mask: Image.Image | None) -> Path:
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
        for i in range(30):
            picture = (
                grey() if name == "images" else Image.fromarray((noise(40, 40) > 127).astype(np.uint8) * 255)
            )
            (folder / name / f"{i}.png").write_bytes(encoded(picture))
    (folder / "images" / "bad.png").write_bytes(encoded(grey()))
    if mask is not None:
        (folder / "masks" / "bad.png").write_bytes(encoded(mask))
    return folder
