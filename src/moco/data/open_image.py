"""Opening an image file with Pillow: which formats, up to which size, and without its remarks on the terminal."""

from __future__ import annotations

import functools
import logging
import os
import re
import threading
import warnings
from typing import IO, Any

from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from moco.data.libtiff import hear_libtiff

JPEG_START = b"\xff\xd8\xff"
# Formats that Pillow itself decodes. EPS is left out on purpose: it would run Ghostscript on whatever the folder holds.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM", "MPO", "JPEG2000", "AVIF")
_PILLOW_MODULES = r"PIL\."
_mute_lock = threading.Lock()
_LIMIT_NAME = "MOCO_MAX_PIXELS"


def open_image(file: IO[bytes]) -> Image.Image:
    """The image of a file, its pixels unread; a JPEG of any size, since it may be reduced while it is decoded."""
    _mute_pillow()
    try:
        return Image.open(file, formats=_formats())
    except Image.DecompressionBombError as error:  # Pillow refuses from twice the limit on
        file.seek(0)
        if file.read(len(JPEG_START)) != JPEG_START:
            raise ValueError(_too_large(next(re.finditer(r"\d+", str(error)))[0])) from error
        file.seek(0)
        return JpegImageFile(file)


def check_size(image: Image.Image) -> None:
    """Refuse an image that would take too much memory.

    Raises:
        ValueError: more than PIL.Image.MAX_IMAGE_PIXELS, which the environment variable MOCO_MAX_PIXELS replaces.
    """
    if Image.MAX_IMAGE_PIXELS is not None and image.width * image.height > Image.MAX_IMAGE_PIXELS:
        raise ValueError(_too_large(f"{image.width} x {image.height}"))


def _too_large(size: str) -> str:
    return (
        f"{size} pixels, more than the limit of {Image.MAX_IMAGE_PIXELS}: moco pack reduces JPEG files; for others "
        f"state {_LIMIT_NAME}=N in the environment, or make them smaller"
    )


@functools.cache
def _formats() -> tuple[str, ...]:
    Image.init()
    if limit := os.environ.get(_LIMIT_NAME):
        if not limit.isdecimal():
            raise ValueError(f"{_LIMIT_NAME}={limit!r} in the environment: expected a number of pixels")
        Image.MAX_IMAGE_PIXELS = int(limit)
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _mute_pillow() -> None:
    """Keep Pillow's warnings (odd metadata, large images) out of the terminal: a file is readable or it is damaged.

    The filter stays in place: setting and restoring filters for each image would race between threads and make Python
    forget which other warnings it has already shown.
    """
    hear_libtiff()
    if not any(_is_ours(entry) for entry in warnings.filters):
        logging.getLogger("PIL.TiffImagePlugin").setLevel(logging.CRITICAL)  # a line for each file of many bands
        with _mute_lock:
            warnings.filterwarnings("ignore", module=_PILLOW_MODULES)


def _is_ours(entry: Any) -> bool:
    action, _, _, module, _ = entry
    return bool(action == "ignore" and getattr(module, "pattern", module) == _PILLOW_MODULES)
