"""TIFF files of more bands than grey or RGB and alpha: what they hold, and why they are not read."""

from __future__ import annotations

from typing import IO

from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

_BITS, _BANDS, _EXTRA_BANDS = 258, 277, 338  # TIFF tags; the last: what those after grey or RGB are
_ALPHA = (1, 2, 999)  # TIFF 6.0; 999: Corel Draw
_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # + for files of more than 4 GiB
_CURE = "expected grey or RGB of 8 or 16 bits, with or without alpha; save the bands to learn from as such"


def check_bands(image: Image.Image) -> None:
    """Refuse an image of which Pillow would drop a band that is not alpha.

    Raises:
        ValueError: there is one.
    """
    tags = getattr(image, "tag_v2", {})
    if any(kind not in _ALPHA for kind in tags.get(_EXTRA_BANDS, ())):
        raise ValueError(f"{tags[_BANDS]} bands, the last not alpha: {_CURE}")


def tiff_layout(file: IO[bytes]) -> str:
    """Bands and bits of a TIFF file that Pillow does not know; nothing for any other file."""
    head = file.read(8)
    if head[:4] not in _STARTS:
        return ""
    directory = ImageFileDirectory_v2(head + (file.read(8) if 43 in head[2:4] else b""))
    file.seek(directory.next)
    directory.load(file)
    return f"TIFF of {directory.get(_BANDS, 1)} bands of {max(directory.get(_BITS, (1,)))} bits: {_CURE}"
