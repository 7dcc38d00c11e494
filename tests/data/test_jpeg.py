"""Two decoders, one picture: where simplejpeg decodes, Pillow would have given the same bits."""

import io
import zlib

import numpy as np
import pytest
from PIL import Image

from moco.data import decode
from moco.data.decode import DamagedImage, decode_pixels, image_shape, read_image, read_pixels

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 13, 3), dtype=np.uint8)).resize((130, 90))
FILES = {
    "plain": {},
    "fine": {"quality": 100, "subsampling": 0},
    "subsampled": {"quality": 60, "subsampling": 2},
    "progressive": {"progressive": True},
    "rgb": {"keep_rgb": True},
}


def encoded(image=PICTURE, *, orientation=None, **options):
    if orientation is not None:
        options["exif"] = Image.Exif()
        options["exif"][decode.ORIENTATION_TAG] = orientation
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", **options)
    return buffer.getvalue()


def by_pillow(data):
    return np.asarray(decode._decode(lambda: io.BytesIO(data), "a.jpg", None, decode.FULL, 3))


@pytest.fixture(autouse=True)
def installed():
    pytest.importorskip("simplejpeg")


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_both_decoders_give_the_same_bits(kind, mode):
    if (kind, mode) == ("rgb", "L"):
        return
    data = encoded(PICTURE.convert(mode), **FILES[kind])
    fast = decode.plain_pixels(data)
    assert fast is not None
    assert fast.shape == (90, 130, 3)
    np.testing.assert_array_equal(fast, by_pillow(data))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_files_come_out_upright(orientation, tmp_path):
    data = encoded(orientation=orientation)
    (tmp_path / "a.jpg").write_bytes(data)
    assert (decode.plain_pixels(data) is None) is (orientation != 1)
    expected = np.asarray(read_image(tmp_path / "a.jpg"))
    np.testing.assert_array_equal(decode_pixels(data, item="x"), expected)
    np.testing.assert_array_equal(read_pixels(tmp_path / "a.jpg"), expected)
    assert image_shape(tmp_path / "a.jpg") == expected.shape[:2] == ((90, 130) if orientation < 5 else (130, 90))


@pytest.mark.parametrize("kind", ["cmyk", "cut", "tail", "noise", "png"])
def test_pillow_decides_where_there_is_doubt(kind, tmp_path):
    whole = encoded()
    data = {
        "cmyk": encoded(PICTURE.convert("CMYK")),
        "cut": whole[: len(whole) // 2],
        "tail": whole[:-2],
        "noise": whole[:300] + b"\xff\xd8 nonsense " + whole[300:],
        "png": b"\x89PNG",
    }[kind]
    (tmp_path / "a.jpg").write_bytes(data)
    assert outcome(lambda: decode_pixels(data, item="a.jpg")) == outcome(lambda: by_pillow(data))
    assert outcome(lambda: read_pixels(tmp_path / "a.jpg")) == outcome(lambda: read_image(tmp_path / "a.jpg"))
    assert (kind in ("cut", "png")) <= isinstance(outcome(lambda: read_pixels(tmp_path / "a.jpg")), str)


def outcome(read):
    """A checksum of the pixels, or what is wrong with the file."""
    try:
        return zlib.crc32(np.asarray(read()).tobytes())
    except DamagedImage as error:
        return error.reason


@pytest.mark.parametrize("min_side", [10, 11, 22, 23, 44, 45, 90, 200, None])
def test_reduced_sizes_are_pillows(min_side, tmp_path):
    data = encoded()
    (tmp_path / "a.jpg").write_bytes(data)
    expected = np.asarray(read_image(tmp_path / "a.jpg", min_side=min_side))
    factor = decode.reduction(90, 130, min_side)
    assert (
        expected.shape[:2]
        == (-(-90 // factor), -(-130 // factor))
        == image_shape(tmp_path / "a.jpg", min_side=min_side)
    )
    np.testing.assert_array_equal(decode_pixels(data, item="x", min_side=min_side), expected)


def test_without_the_library_the_pixels_are_the_same(monkeypatch, tmp_path):
    data = encoded()
    (tmp_path / "a.jpg").write_bytes(data)
    fast = decode_pixels(data, item="x")
    monkeypatch.setattr(decode, "jpeg_library", lambda: None)
    assert decode.plain_pixels(data) is None
    np.testing.assert_array_equal(decode_pixels(data, item="x"), fast)
    np.testing.assert_array_equal(read_pixels(tmp_path / "a.jpg"), fast)


def test_an_image_of_too_many_pixels_is_refused_by_both_ways(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 90 * 130 - 1)
    with pytest.raises(DamagedImage, match="more than the limit"):
        decode_pixels(encoded(), item="x")


def test_a_shape_that_cannot_be_read_is_zero(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"nothing")
    assert image_shape(tmp_path / "a.jpg") == (0, 0) == image_shape(tmp_path / "gone.jpg")
