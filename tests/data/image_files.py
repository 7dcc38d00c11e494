"""Files that Pillow cannot write: PNG and TIFF of 16-bit colour, TIFF of any number of bands."""

from __future__ import annotations

import struct
import zlib

import numpy as np

_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # PNG, by channels


def png_of(header: bytes, rows: bytes) -> bytes:
    """A PNG file with this IHDR and these filtered rows."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def deep_png(values: np.ndarray) -> bytes:
    """(H, W, 1 to 4) uint16 as a PNG of grey, grey and alpha, RGB or RGBA, whose rows are differences (filter Sub)."""
    height, width, channels = values.shape
    raw = values.astype(">u2").view(np.uint8).reshape(height, -1)
    less = np.pad(raw, ((0, 0), (2 * channels, 0)))[:, : raw.shape[1]]
    rows = np.concatenate([np.ones((height, 1), np.uint8), raw - less], axis=1)
    return png_of(struct.pack(">IIBBBBB", width, height, 16, _COLOUR_TYPES[channels], 0, 0, 0), rows.tobytes())


def tiff(
    values: np.ndarray, *, order: str = "<", packed: bool = False, extra: int | None = None, planes: bool = False
) -> bytes:
    """(H, W, bands) uint8 or uint16 as a TIFF in one strip.

    Args:
        order: of the bytes, < or >.
        packed: deflate it.
        extra: what the bands after the third are (TIFF 6.0: 0 unspecified, 2 alpha); None leaves that out.
        planes: band after band.
    """
    height, width, bands = values.shape
    laid = values.transpose(2, 0, 1) if planes else values
    body = laid.astype(laid.dtype.newbyteorder(order)).tobytes()
    body = zlib.compress(body) if packed else body
    bits = values.dtype.itemsize * 8
    tags: dict[int, tuple[str, tuple[int, ...]]] = {
        256: ("H", (width,)),
        257: ("H", (height,)),
        258: ("H", (bits,) * bands),
        259: ("H", (8 if packed else 1,)),
        262: ("H", (2 if bands >= 3 else 1,)),
        273: ("I", (8,)),
        277: ("H", (bands,)),
        278: ("H", (height,)),
        279: ("I", (len(body),)),
        284: ("H", (2 if planes else 1,)),
    }
    if planes:
        size = len(body) // bands
        tags[273], tags[279] = ("I", tuple(8 + size * band for band in range(bands))), ("I", (size,) * bands)
    if extra is not None:
        tags[338] = ("H", (extra,) * (bands - 3))
    return _tiff_of(body, tags, order)


def _tiff_of(body: bytes, tags: dict[int, tuple[str, tuple[int, ...]]], order: str) -> bytes:
    """The body right behind the header, then the directory, then what does not fit into it."""
    start = 8 + len(body) + len(body) % 2
    directory, far = struct.pack(order + "H", len(tags)), b""
    after = start + 2 + 12 * len(tags) + 4
    for tag, (kind, numbers) in sorted(tags.items()):
        data = struct.pack(f"{order}{len(numbers)}{kind}", *numbers)
        if len(data) > 4:
            data, far = struct.pack(order + "I", after + len(far)), far + data
        directory += struct.pack(order + "HHI", tag, 3 if kind == "H" else 4, len(numbers)) + data.ljust(4, b"\0")
    magic = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, start)
    return magic + body.ljust(start - 8, b"\0") + directory + bytes(4) + far
