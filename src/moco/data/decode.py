"""One image file to pixels, RGB unless other channels are expected, or a clear reason why not.

Content decides what a file is, never its name. Pillow is the authority on what a file shows; where simplejpeg (MIT) is
installed, plain JPEG files go through it, which gives the same bits in less time. Whatever is turned by its EXIF
orientation, large enough for a decode at reduced size, in four colours, damaged or doubtful is left to Pillow.
"""

from __future__ import annotations

import functools
import io
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import IO

import numpy as np
from PIL import Image, UnidentifiedImageError

from moco.atomic import reason
from moco.data.bands import RGB, Layout, file_layout, in_channels, layout_of, open_values
from moco.data.bit_depth import FULL, Depth, deep_values, eight_bit, is_deep
from moco.data.open_image import JPEG_START, check_size, open_image
from moco.errors import DataError
from moco.printable import printable

IMAGE_EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"}
    | {".avif"}  # which Pillow reads from 11.3 on
)
_UPRIGHT = {  # EXIF orientation -> what turns the stored pixels upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)  # orientations that swap height and width
ORIENTATION_TAG = 0x0112  # EXIF 2.3: 1 is upright
_PLAIN_COLORS = frozenset({"YCbCr", "Gray", "RGB"})  # in simplejpeg's words
_JPEG_FORMATS = ("JPEG", "MPO")
_LARGEST_FILE = 2**26  # bytes that are read at once; a larger JPEG is left to Pillow, which reads as it decodes


class DamagedImage(DataError):  # noqa: N818 - a state of the file, named as users say it
    """An image that cannot be read.

    Args:
        item: file or array element, as the user knows it.
        reason: why, in a few words.
    """

    def __init__(self, item: str, reason: str) -> None:
        super().__init__(item, reason)
        self.item, self.reason = item, reason

    def __str__(self) -> str:
        return printable(f"{self.item}: {self.reason}")


def read_image(
    path: str | bytes | Path, *, min_side: int | None = None, depth: Depth = FULL, channels: int = RGB
) -> Image.Image:
    """Decode one file to RGB, or to grey for `channels` 1, 8 bit, turned upright by its EXIF orientation.

    Grey is repeated over the channels, alpha is dropped, the first frame of an animation is taken.

    Args:
        path: the file.
        min_side: if given, a JPEG at least twice as large is decoded at 1/2, 1/4 or 1/8 of its size, which costs much
            less; neither side gets below min_side pixels.
        depth: how values of more than 8 bits become 8.
        channels: 3 or 1.

    Raises:
        DamagedImage: missing, empty, truncated or corrupt, not an image, of other channels, or of more pixels, after
            the reduction, than PIL.Image.MAX_IMAGE_PIXELS, which the environment variable MOCO_MAX_PIXELS replaces.
    """
    return as_image(_decode_file(path, min_side, depth, channels))


def read_pixels(
    path: str | bytes | Path, *, min_side: int | None = None, depth: Depth = FULL, channels: int = RGB
) -> np.ndarray:
    """What `read_image` gives, as (H, W, C) uint8 for any number of channels that the file holds, perhaps read-only;
    RGB faster where simplejpeg is installed.
    """
    content = jpeg_content(path) if channels == RGB and jpeg_library() else None
    pixels = None if content is None else plain_pixels(content, min_side)
    if pixels is None:
        pixels = np.asarray(_decode_file(path, min_side, depth, channels))
    return pixels if pixels.ndim == 3 else pixels[..., None]


def decode_pixels(
    data: bytes, *, item: str, min_side: int | None = None, depth: Depth = FULL, channels: int = RGB
) -> np.ndarray:
    """What `read_pixels` gives for a file's content; `item` is what messages call it."""
    pixels = plain_pixels(data, min_side) if channels == RGB else None
    if pixels is None:
        pixels = np.asarray(_decode(lambda: io.BytesIO(data), item, min_side, depth, channels))
    return pixels if pixels.ndim == 3 else pixels[..., None]


def as_image(pixels: Image.Image | np.ndarray) -> Image.Image:
    """Pixels (H, W, C) as a picture: RGB of three channels or more, whose first three it shows, else the first."""
    if isinstance(pixels, Image.Image):
        return pixels
    return Image.fromarray(np.ascontiguousarray(pixels[..., :RGB] if pixels.shape[2] >= RGB else pixels[..., 0]))


def image_shape(path: str | bytes | Path, *, min_side: int | None = None) -> tuple[int, int]:
    """Height and width that `read_image` will give, from the file's first bytes; (0, 0) if they cannot be read.

    A turned PNG, whose orientation may stand at its end, is told as it is stored.
    """
    try:
        with open(path, "rb") as file:
            try:
                with open_image(file) as image:
                    if min_side is not None and image.format in _JPEG_FORMATS:
                        image.draft(None, (min_side, min_side))
                    turned = image.format != "PNG" and image.getexif().get(ORIENTATION_TAG, 1) in _SIDEWAYS
                    return (image.width, image.height) if turned else (image.height, image.width)
            except UnidentifiedImageError:
                return file_layout(file)[:2]
    except MemoryError:
        raise
    except Exception:  # reading the whole will say what is wrong
        return 0, 0


def image_layout(path: str | bytes | Path) -> Layout | None:
    """Size and channels of a file as it is stored, from its first bytes; None if they cannot be read."""
    try:
        with open(path, "rb") as file:
            return file_layout(file)
    except MemoryError:
        raise
    except Exception:  # reading the whole will say what is wrong
        return None


def jpeg_content(path: str | bytes | Path) -> bytes | None:
    """The file's content if it begins like a JPEG and has at most 64 MiB; None else, and where it cannot be read."""
    try:
        with open(path, "rb") as file:
            if file.read(len(JPEG_START)) != JPEG_START or os.fstat(file.fileno()).st_size > _LARGEST_FILE:
                return None
            file.seek(0)
            return file.read()
    except (OSError, ValueError):  # `read_image` says why
        return None


@functools.cache
def jpeg_library() -> ModuleType | None:
    """simplejpeg, or None where it is not installed."""
    try:
        import simplejpeg
    except ImportError:
        return None
    return simplejpeg  # type: ignore[no-any-return]


def reduction(height: int, width: int, min_side: int | None) -> int:
    """By how much a JPEG is reduced while it is decoded, 1, 2, 4 or 8, so that no side gets below `min_side`.

    The rule of Pillow's `Image.draft`; the reduced sides are rounded up.
    """
    if min_side is None:
        return 1
    room = min(height // min_side, width // min_side)
    return next((factor for factor in (8, 4, 2) if room >= factor), 1)


def plain_pixels(data: bytes, min_side: int | None = None) -> np.ndarray | None:
    """(H, W, 3) uint8 of a JPEG file's content by simplejpeg, or None: ask Pillow."""
    decoder = jpeg_library()
    if decoder is None or not data.startswith(JPEG_START):
        return None
    try:
        height, width, colors, _ = decoder.decode_jpeg_header(data)
        large = Image.MAX_IMAGE_PIXELS is not None and height * width > Image.MAX_IMAGE_PIXELS
        if large or colors not in _PLAIN_COLORS or reduction(height, width, min_side) > 1 or _is_turned(data):
            return None
        pixels: np.ndarray = decoder.decode_jpeg(data, strict=True)
    except ValueError:  # the library's word for damage
        return None
    return pixels


def _is_turned(data: bytes) -> bool:
    if b"Exif\0\0" not in data:
        return False
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "MPO")) as image:
            return bool(image.getexif().get(ORIENTATION_TAG, 1) != 1)
    except Exception:  # whatever the block holds, Pillow's own way through it decides
        return True


def _decode_file(
    path: str | bytes | Path, min_side: int | None, depth: Depth, channels: int
) -> Image.Image | np.ndarray:
    # Given a path, Pillow maps uncompressed files into memory: sideways TIFFs then come out scrambled (Pillow 13), and
    # a file that shrinks meanwhile kills the process.
    return _decode(lambda: open(path, "rb"), os.fsdecode(path), min_side, depth, channels)


def _decode(
    opened: Callable[[], IO[bytes]], item: str, min_side: int | None, depth: Depth, channels: int
) -> Image.Image | np.ndarray:
    try:
        with opened() as file:
            if not file.read(1):
                raise ValueError("empty file")
            file.seek(0)
            found = open_values(file, channels)
            if isinstance(found, np.ndarray):
                eight = found if found.dtype == np.uint8 else eight_bit(found, depth=depth)
                return in_channels(eight, channels)
            with found as image:
                if min_side is not None and image.format in _JPEG_FORMATS:
                    image.draft(None, (min_side, min_side))
                check_size(image)
                if not is_deep(image):
                    image.load()
                    return _upright(converted(image, channels, depth), image)
                deep = Image.fromarray(eight_bit(deep_values(image, file, alpha=channels in (2, 4)), depth=depth))
                return _upright(converted(deep, channels, depth), image)
    except MemoryError:  # the machine's trouble, not the file's
        raise
    except Exception as error:  # a broken file can raise anything inside a decoder
        raise DamagedImage(item, _reason(error)) from error


def unscaled(path: str | bytes | Path, channels: int | None = None) -> np.ndarray | None:
    """The values of a file of floats or of more than 8 bits; None for every other one, whose pixels are not read."""
    try:
        with open(path, "rb") as file:
            found = open_values(file, channels or file_layout(file).stored)
            if isinstance(found, np.ndarray):
                return None if found.dtype == np.uint8 else found
            with found as image:
                if image.mode == "F":
                    return np.asarray(image)
                return deep_values(image, file, alpha=channels in (2, 4)) if is_deep(image) else None
    except MemoryError:
        raise
    except Exception:  # reading it for use says what is wrong
        return None


def converted(image: Image.Image, channels: int, depth: Depth = FULL) -> Image.Image:
    """Any Pillow image to one of 8 bits and so many channels: RGB, grey for 1, with alpha for 2 and 4.

    Raises:
        ValueError: it has others; or 32-bit or float values outside the ranges that have a plain meaning.
    """
    if channels == RGB:
        return to_rgb(image, depth)
    layout_of(image).check(channels)
    if image.mode.startswith("I") or image.mode == "F":
        image = Image.fromarray(eight_bit(np.asarray(image), depth=depth))
    return image.convert({1: "L", 2: "LA", 4: "RGBA"}[channels])


def to_rgb(image: Image.Image, depth: Depth = FULL) -> Image.Image:
    """Any Pillow image to RGB, 8 bit; the image itself if it is RGB already.

    Raises:
        ValueError: 32-bit or float values outside the ranges that have a plain meaning.
    """
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I") or image.mode == "F":
        image = Image.fromarray(eight_bit(np.asarray(image), depth=depth))
    image.info.pop("transparency", None)
    return image.convert("RGB")


def _upright(pixels: Image.Image, image: Image.Image) -> Image.Image:
    """The pixels turned by the orientation that the image states."""
    try:
        orientation = image.getexif().get(ORIENTATION_TAG, 1)
    except Exception:  # a broken EXIF block does not damage the pixels
        return pixels
    turn = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return pixels if turn is None else pixels.transpose(turn)


def _reason(error: Exception) -> str:
    """A few words on one line, without the path."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image in a known format"
    return reason(error)
