# SPDX-License-Identifier: Apache-2.0
"""One image file to pixels: PNG, JPEG, TIFF, BMP, DICOM, npy. Everything in a file is taken to be hostile.

A format is recognised by its bytes and must be on the list; size is checked before pixels are decoded;
16-bit images are
scaled by their full range, never by the image's own minimum and maximum; animation and further pages are
refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from confide.errors import ConfideError, DataError

if TYPE_CHECKING:
    from PIL.Image import Image

NUMPY = b"\x93NUMPY"
FORMATS = ("PNG", "JPEG", "TIFF", "BMP")
MOST_PIXELS = 64_000_000
_REMEDY = "Repair or remove the file, or pass --skip-bad."


def decode(
    data: bytes, where: str, *, size: int, channels: int, window: str | None = None
) -> NDArray[np.uint8]:
    """Pixels (channels, size, size) of an image file; its aspect ratio is not kept.

    Args:
        where: How an error names the file.
        window: A DICOM window, see `confide.data.dicom`.

    Raises:
        DataError: If it cannot be used; says why.
    """
    from PIL import Image

    if data[128:132] == b"DICM":
        from confide.data.dicom import read_dicom

        pixels = read_dicom(data, where, window=window)
        image = Image.fromarray(pixels)
    elif data[:6] == NUMPY:
        image = Image.fromarray(_plain(data, where))
    else:
        image = open_image(data, where, (2 * size, 2 * size))
    image = image.convert("L" if channels == 1 else "RGB").resize((size, size), Image.Resampling.BICUBIC)
    array = np.asarray(image)
    return np.ascontiguousarray(array[None] if channels == 1 else array.transpose(2, 0, 1))


def decode_mask(
    data: bytes,
    where: str,
    *,
    size: int,
    image_size: tuple[int, int] | None,
    classes: int,
    meaning: Mapping[int, int] | None = None,
) -> NDArray[np.uint8]:
    """A mask (size, size) with values 0..classes-1; of two classes, 0 and 255 are allowed too.

    Args:
        meaning: Value in the file -> class, where they differ.
        image_size: Width and height that it must have, those of its image.

    Raises:
        DataError: If it has another size or holds undeclared classes.
    """
    from PIL import Image

    mask = Image.fromarray(_plain(data, where)) if data[:6] == NUMPY else open_image(data, where, None)
    if image_size is not None and mask.size != image_size:
        raise DataError(
            f"the mask is {mask.size[0]}×{mask.size[1]}, its image {image_size[0]}×{image_size[1]}",
            where=where,
            remedy=_REMEDY,
        )
    values = np.asarray(mask if mask.mode == "P" else mask.convert("L"))
    found = set(np.unique(values).tolist())
    if meaning:
        strange = found - meaning.keys()
        if strange:
            raise DataError(
                f"the mask holds the value {max(strange)}",
                where=where,
                why=f"Declared are {', '.join(map(str, sorted(meaning)))}.",
                remedy=_REMEDY,
            )
        table = np.zeros(256, np.uint8)
        table[list(meaning)] = list(meaning.values())
        values = table[values]
    elif classes == 2 and found <= {0, 255}:
        values = (values > 0).astype(np.uint8)
    elif max(found) >= classes:
        raise DataError(
            f"the mask holds the value {max(found)}",
            where=where,
            why=f"Declared are 0..{classes - 1}.",
            remedy=_REMEDY,
        )
    return np.asarray(Image.fromarray(values).resize((size, size), Image.Resampling.NEAREST))


def _plain(data: bytes, where: str) -> NDArray[np.uint8]:
    """An npy file with one grey or RGB image."""
    try:
        pixels = np.load(BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError):
        raise DataError("is no readable npy file of plain numbers", where=where, remedy=_REMEDY) from None
    if pixels.dtype != np.uint8 or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)):
        raise DataError(
            f"holds {pixels.dtype} of shape {pixels.shape}, no 8-bit image", where=where, remedy=_REMEDY
        )
    return pixels


def measure(data: bytes, where: str) -> tuple[int, int]:
    """Width and height of an image file as it is shown, without decoding it.

    Raises:
        DataError: If it is no image of a supported format.
    """
    if data[128:132] == b"DICM":
        from confide.data.dicom import size_of

        return size_of(data, where)
    if data[:6] == NUMPY:
        height, width = _plain(data, where).shape[:2]
        return width, height
    image = _opened(data, where)
    turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
    return (image.height, image.width) if turned else image.size


def _opened(data: bytes, where: str) -> Image:
    """The header of an image, checked."""
    from PIL import Image, UnidentifiedImageError

    if not data:
        raise DataError("the file is empty", where=where, remedy=_REMEDY)
    try:
        image = Image.open(BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise DataError(
            "is no image of a supported format",
            where=where,
            why=f"Supported: {', '.join(FORMATS)}, DICOM.",
            remedy=_REMEDY,
        ) from None
    except Exception as error:
        raise _refused(error, where) from None
    if image.width * image.height > MOST_PIXELS:
        raise DataError(
            f"the image has {image.width}×{image.height} pixels",
            where=where,
            why="At most 64 million.",
            remedy=_REMEDY,
        )
    return image


def open_image(data: bytes, where: str, at_least: tuple[int, int] | None) -> Image:
    """A decoded image in mode L, P or RGB, turned as its EXIF says.

    Args:
        at_least: A JPEG may be decoded smaller, but not below this width and height.
    """
    from PIL import ImageOps

    image = _opened(data, where)
    # Decoders of hostile bytes raise whatever they please; each of their errors means the same: a bad file.
    try:
        frames: Any = getattr(image, "n_frames", 1)
        if frames != 1:
            raise DataError(
                f"holds {frames} frames or pages", where=where, why="Expected one image.", remedy=_REMEDY
            )
        if at_least is not None and image.format == "JPEG":
            image.draft(None, at_least)
        image.load()
        return _eight_bits(ImageOps.exif_transpose(image), where)
    except ConfideError:
        raise
    except Exception as error:
        raise _refused(error, where) from None


def _refused(error: Exception, where: str) -> DataError:
    bomb = type(error).__name__.startswith("DecompressionBomb")
    what = "the image has too many pixels" if bomb else "the image is damaged"
    # The decoder's own words name a fault, not content; they are cut short all the same.
    return DataError(
        what, where=where, why=str(error).splitlines()[0][:80] if str(error) else "", remedy=_REMEDY
    )


def _eight_bits(image: Image, where: str) -> Image:
    from PIL import Image as pil

    if image.mode in ("L", "RGB", "P"):
        return image
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image)
        if image.mode == "F":
            if not np.isfinite(values).all() or values.min() < 0 or values.max() > 1:
                raise DataError("float pixels are not within [0, 1]", where=where, remedy=_REMEDY)
            return pil.fromarray((values * 255).round().astype(np.uint8))
        if values.min() < 0 or values.max() > 65535:
            raise DataError("integer pixels are not within 16 bits", where=where, remedy=_REMEDY)
        return pil.fromarray((values.astype(np.float32) / 257).round().astype(np.uint8))
    if image.mode in ("1", "CMYK", "YCbCr", "LAB", "HSV"):
        return image.convert("L" if image.mode == "1" else "RGB")
    if image.mode in ("LA", "PA", "RGBA", "RGBX", "La", "RGBa"):
        # What is transparent is shown on black, as in a light box that is off.
        whole = image.convert("RGBA")
        return pil.alpha_composite(pil.new("RGBA", whole.size, (0, 0, 0, 255)), whole).convert("RGB")
    raise DataError(f"has the pixel format {image.mode}", where=where, remedy=_REMEDY)
