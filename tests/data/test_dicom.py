"""DICOM: values are rescaled, white on black, ranged and read like those of any other file."""

import struct
import sys
from typing import Any

import numpy as np
import pytest

from moco.data.source import open_source
from moco.errors import DataError

_TEXT = {"CS", "DS", "IS", "UI"}


def dicom(values: np.ndarray, **stated: Any) -> bytes:
    """(H, W) or (H, W, 3) whole numbers as a DICOM file, little-endian with explicit types, uncompressed."""
    height, width, *rest = values.shape
    bits = values.dtype.itemsize * 8
    frames = stated.pop("frames", 1)
    kind = stated.pop("kind", "RGB" if rest else "MONOCHROME2")
    elements = [
        (0x0028, 0x0002, "US", rest[0] if rest else 1),
        (0x0028, 0x0004, "CS", kind),
        *([(0x0028, 0x0006, "US", 0)] if rest else []),
        *([(0x0028, 0x0008, "IS", frames)] if frames > 1 else []),
        (0x0028, 0x0010, "US", height),
        (0x0028, 0x0011, "US", width),
        (0x0028, 0x0100, "US", bits),
        (0x0028, 0x0101, "US", stated.pop("stored", bits)),
        (0x0028, 0x0102, "US", stated.get("stored", bits) - 1),
        (0x0028, 0x0103, "US", int(values.dtype.kind == "i")),
        *((0x0028, tag, "DS", text) for tag, text in sorted(stated.pop("scale", {}).items())),
        (0x7FE0, 0x0010, "OW", values.tobytes() * frames),
    ]
    meta = _element(0x0002, 0x0010, "UI", "1.2.840.10008.1.2.1\0")
    head = _element(0x0002, 0x0000, "UL", len(meta)) + meta
    return bytes(128) + b"DICM" + head + b"".join(_element(*element) for element in elements)


def _element(group: int, number: int, kind: str, value: object) -> bytes:
    if kind in _TEXT:
        text = str(value).encode()
        body = text + b" " * (len(text) % 2)
    else:
        body = value if isinstance(value, bytes) else struct.pack("<H" if kind == "US" else "<I", value)
        body += b"\0" * (len(body) % 2)
    length = struct.pack("<HI", 0, len(body)) if kind == "OW" else struct.pack("<H", len(body))
    return struct.pack("<HH", group, number) + kind.encode() + length + body


SLOPE, INTERCEPT = 0x1053, 0x1052
GREY = np.arange(12 * 10, dtype=np.uint16).reshape(12, 10) * 34  # 0 to 4046: 12 bits


def folder(path, *files: bytes):
    for number, content in enumerate(files):
        (path / f"{number}.dcm").write_bytes(content)
    return path


def spread(values, low, high):
    return np.floor((values - low) / (high - low) * 255 + 0.5)[..., None]


def test_without_pydicom_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(DataError, match=r"none of 2 .* pip install 'moco-contrast\[dicom\]'") as caught:
        open_source(folder(tmp_path, *[dicom(GREY)] * 2))
    assert "\n" not in str(caught.value)


@pytest.fixture
def installed():
    pytest.importorskip("pydicom")


@pytest.mark.usefixtures("installed")
def test_grey_of_twelve_bits_is_ranged_and_inverted_where_white_is_least(tmp_path):
    inverted = dicom(np.uint16(4095) - GREY, kind="MONOCHROME1", stored=12)
    source, _ = open_source(folder(tmp_path, dicom(GREY, stored=12), inverted), channels=1)
    assert (source.value_range, source.channels) == (4095, 1)
    np.testing.assert_array_equal(list(source), [np.rint(GREY / 4095 * 255)[..., None]] * 2)
    repeated, _ = open_source(tmp_path)
    np.testing.assert_array_equal(repeated.pixels(0), np.repeat(source.pixels(0), 3, axis=-1))
    np.testing.assert_array_equal(source.shapes(np.arange(2)), [[12, 10]] * 2)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(("slope", "intercept"), [(1, -1024), (0.5, -3.25)])
def test_values_are_rescaled_before_they_are_ranged(tmp_path, slope, intercept):
    scale = {SLOPE: slope, INTERCEPT: intercept}
    source, _ = open_source(folder(tmp_path, *[dicom(GREY, stored=12, scale=scale)] * 2), channels=1)
    units = GREY.astype(float) * slope + intercept
    assert source.value_range == (units.min(), units.max())
    np.testing.assert_array_equal(source.pixels(1), spread(units, units.min(), units.max()))


@pytest.mark.usefixtures("installed")
def test_eight_bits_and_colours_stay_as_they_are(tmp_path):
    colour = np.random.default_rng(0).integers(0, 256, (12, 10, 3), dtype=np.uint8)
    source, _ = open_source(folder(tmp_path, *[dicom(colour)] * 2))
    assert source.value_range is None
    np.testing.assert_array_equal(source.pixels(0), colour)
    (tmp_path / "grey").mkdir()
    files = dicom(colour[..., 0]), dicom(255 - colour[..., 0], kind="MONOCHROME1")
    grey, _ = open_source(folder(tmp_path / "grey", *files), channels=1)
    assert grey.value_range is None
    np.testing.assert_array_equal(list(grey), [colour[..., :1]] * 2)


def test_further_frames_are_said_and_counted(tmp_path):
    """Only the first is used."""
    pytest.importorskip("pydicom")
    source, _ = open_source(folder(tmp_path, dicom(GREY), dicom(GREY, frames=7)))
    assert [line for line in source.remarks if "1 of 2 files looked at have several frames (1.dcm: 7)" in line]
    np.testing.assert_array_equal(source.pixels(1), source.pixels(0))
    assert source.first_only == 1
    assert "1 file has several pages or frames, of which only the first was used" in source.closing_line()
