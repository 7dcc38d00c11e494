"""Every readable file becomes upright 8-bit RGB; every other one is named, with the reason."""

import contextlib
import io
import pickle
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from moco.data.decode import DamagedImage, image_shape, read_image, to_rgb
from moco.data.open_image import _formats
from moco.errors import DataError

RED, GREEN = (255, 0, 0), (0, 255, 0)


def gradient(height: int = 24, width: int = 40) -> np.ndarray:
    rows, columns = np.mgrid[0:height, 0:width]
    channels = [rows * 255 // (height - 1), columns * 255 // (width - 1), np.full_like(rows, 90)]
    return np.stack(channels, axis=-1).astype(np.uint8)


@pytest.mark.parametrize("suffix", ["png", "bmp", "webp", "tif", "ppm"])
def test_lossless_formats_give_their_exact_pixels(tmp_path, suffix):
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(gradient()).save(path, **({"lossless": True} if suffix == "webp" else {}))
    image = read_image(path)
    assert image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(image), gradient())


def test_content_decides_not_the_extension(tmp_path):
    path = tmp_path / "image.jpg"
    Image.fromarray(gradient()).save(path, format="PNG")
    np.testing.assert_array_equal(np.asarray(read_image(path)), gradient())


def test_grey_is_repeated_over_the_channels(tmp_path):
    grey = gradient()[..., 1]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    pixels = np.asarray(read_image(tmp_path / "grey.png"))
    for channel in range(3):
        np.testing.assert_array_equal(pixels[..., channel], grey)


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_sixteen_bit_grey_is_scaled_from_its_full_range(tmp_path, suffix):
    values = np.array([[0, 257, 300], [32896, 65278, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / f"deep.{suffix}")
    pixels = np.asarray(read_image(tmp_path / f"deep.{suffix}"))
    np.testing.assert_array_equal(pixels[..., 0], np.round(values / 257))
    assert pixels.max() == 255
    assert pixels.min() == 0


def test_every_sixteen_bit_value_is_rounded_to_the_nearest():
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    np.testing.assert_array_equal(np.asarray(to_rgb(Image.fromarray(values)))[..., 2], np.rint(values / 257.0))


def test_float_grey_from_0_to_1_is_scaled_and_other_floats_are_refused(tmp_path):
    Image.fromarray(np.array([[0.0, 0.5, 1.0]], dtype=np.float32)).save(tmp_path / "float.tif")
    np.testing.assert_array_equal(np.asarray(read_image(tmp_path / "float.tif"))[0, :, 0], [0, 128, 255])
    Image.fromarray(np.array([[0.0, 700.0]], dtype=np.float32)).save(tmp_path / "wide.tif")
    with pytest.raises(DamagedImage, match="expected 0 to 1"):
        read_image(tmp_path / "wide.tif")
    Image.fromarray(np.array([[-5, 70000]], dtype=np.int32)).save(tmp_path / "deep.tif")
    with pytest.raises(DamagedImage, match="expected 0 to 65535"):
        read_image(tmp_path / "deep.tif")


def test_alpha_is_dropped_not_composited(tmp_path):
    pixels = np.zeros((4, 4, 4), dtype=np.uint8)
    pixels[..., :3] = (200, 100, 50)
    Image.fromarray(pixels).save(tmp_path / "clear.png")
    assert read_image(tmp_path / "clear.png").getpixel((1, 1)) == (200, 100, 50)


def test_palette_with_transparency_gives_its_colours(tmp_path):
    image = Image.new("P", (4, 2))
    image.putpalette([*RED, *GREEN])
    image.putpixel((3, 1), 1)
    image.save(tmp_path / "palette.png", transparency=bytes([0, 128]))
    image.save(tmp_path / "palette.gif", transparency=0)
    for name in ("palette.png", "palette.gif"):
        decoded = read_image(tmp_path / name)
        assert decoded.getpixel((0, 0)) == RED
        assert decoded.getpixel((3, 1)) == GREEN


def test_cmyk_becomes_rgb(tmp_path):
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "print.jpg", quality=95)
    red, green, blue = read_image(tmp_path / "print.jpg").getpixel((8, 8))
    assert red > 200
    assert max(green, blue) < 60


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(tmp_path, suffix, orientation):
    upright = Image.fromarray(
        np.kron(np.array([[0, 80, 255], [150, 40, 200]], dtype=np.uint8), np.ones((16, 16), "u1"))
    )
    stored = {  # what a camera held that way stores: row 0 and column 0 of tag 274's definition
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.T,
        6: lambda a: np.rot90(a),
        7: lambda a: a[::-1, ::-1].T,
        8: lambda a: np.rot90(a, -1),
    }[orientation](np.asarray(upright))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"webp": {"lossless": True}, "jpg": {"quality": 95}}.get(suffix, {})
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / f"turned.{suffix}", exif=exif, **options)
    decoded = np.asarray(read_image(tmp_path / f"turned.{suffix}").convert("L")).astype(int)
    assert decoded.shape == (32, 48)
    assert np.abs(decoded - np.asarray(upright)).max() <= 6


def test_broken_exif_does_not_damage_the_pixels(tmp_path):
    for name in ("odd.jpg", "odd.webp", "odd.png"):
        Image.fromarray(gradient()).save(tmp_path / name, exif=b"Exif\x00\x00not a directory of tags")
        assert read_image(tmp_path / name).size == (40, 24)
    with pytest.raises(SyntaxError), Image.open(tmp_path / "odd.png") as image:
        image.getexif()  # what there is to survive


def encoded(suffix: str) -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, format=suffix)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM"])
def test_truncated_files_are_damaged(tmp_path, kind):
    whole = encoded(kind)
    path = tmp_path / "image.bin"
    path.write_bytes(whole)
    read_image(path)
    for share in (0.05, 0.5, 0.9):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(DamagedImage, match=r"image\.bin: "):
            read_image(path)


def test_corrupt_png_data_is_damaged(tmp_path):
    whole = bytearray(encoded("PNG"))
    middle = len(whole) // 2
    whole[middle : middle + 64] = bytes(64)
    (tmp_path / "bad.png").write_bytes(whole)
    with pytest.raises(DamagedImage):
        read_image(tmp_path / "bad.png")


def test_random_damage_is_never_another_error(tmp_path):
    generator = np.random.default_rng(1)
    path = tmp_path / "fuzz"
    damaged = 0
    for kind in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM"):
        whole = encoded(kind)
        for _ in range(25):
            content = bytearray(whole)
            for place in generator.integers(0, 120, 12):
                content[place] = generator.integers(0, 256)
            path.write_bytes(content)
            try:
                assert read_image(path).mode == "RGB"
            except DamagedImage:
                damaged += 1
    assert damaged > 20


@pytest.mark.parametrize(
    ("content", "reason"), [(b"", "empty file"), (b"<html>404</html>", "not an image"), (b"\xff\xd8\xff", ".")]
)
def test_other_content_is_damaged_and_the_reason_given(tmp_path, content, reason):
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    with pytest.raises(DamagedImage, match=reason) as caught:
        read_image(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, DataError)


def test_missing_file_is_damaged(tmp_path):
    with pytest.raises(DamagedImage, match=r"gone\.jpg: No such file"):
        read_image(tmp_path / "gone.jpg")


def test_damage_survives_a_trip_to_another_process():
    error = pickle.loads(pickle.dumps(DamagedImage("a/b.jpg", "empty file")))
    assert (error.item, error.reason, str(error)) == ("a/b.jpg", "empty file", "a/b.jpg: empty file")


def test_postscript_is_not_executed(tmp_path):
    (tmp_path / "page.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")
    with pytest.raises(DamagedImage, match="not an image in a known format"):
        read_image(tmp_path / "page.jpg")


def huge_png(width: int, height: int) -> bytes:
    """A valid one-bit PNG of zeros: a few kilobytes that unpack to width * height pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    packer = zlib.compressobj()
    row = bytes(1 + (width + 7) // 8)
    body = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.mark.parametrize("width", [1500, 4000])  # where Pillow alone would warn, and where it would refuse
def test_decompression_bombs_are_damaged(tmp_path, monkeypatch, width):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000_000)
    (tmp_path / "bomb.png").write_bytes(huge_png(width, 1000))
    with pytest.raises(DamagedImage, match="pixels"):
        read_image(tmp_path / "bomb.png")
    (tmp_path / "small.png").write_bytes(huge_png(1000, 1000))
    assert read_image(tmp_path / "small.png").size == (1000, 1000)


def test_a_large_photograph_within_reach_of_reduction_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000_000)
    Image.new("RGB", (1600, 1000)).save(tmp_path / "large.jpg")
    with pytest.raises(DamagedImage):
        read_image(tmp_path / "large.jpg")
    assert read_image(tmp_path / "large.jpg", min_side=100).size == (200, 125)


@pytest.mark.parametrize("width", [1600, 4000])  # more than Pillow's limit, and more than twice that
def test_a_jpeg_of_any_size_is_reduced_while_it_is_decoded(tmp_path, monkeypatch, width):
    Image.fromarray(gradient(1000, width)).save(tmp_path / "large.jpg")
    expected = np.asarray(read_image(tmp_path / "large.jpg", min_side=100))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000_000)
    np.testing.assert_array_equal(np.asarray(read_image(tmp_path / "large.jpg", min_side=100)), expected)
    assert image_shape(tmp_path / "large.jpg", min_side=100) == (125, width // 8)
    with pytest.raises(DamagedImage, match=f"{width} x 1000 pixels, more than the limit of 1000000: moco pack reduces"):
        read_image(tmp_path / "large.jpg")


@pytest.mark.parametrize("width", [1500, 4000])
def test_the_limit_of_pixels_is_stated_and_can_be_raised(tmp_path, monkeypatch, width):
    (tmp_path / "large.png").write_bytes(huge_png(width, 1000))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000_000)
    with pytest.raises(DamagedImage, match=r"pixels, more than the limit of 1000000: .* MOCO_MAX_PIXELS=N"):
        read_image(tmp_path / "large.png")
    try:
        for stated, reason in (("4000000", None), ("many", "MOCO_MAX_PIXELS='many' in the environment: expected a")):
            monkeypatch.setenv("MOCO_MAX_PIXELS", stated)
            _formats.cache_clear()
            with contextlib.nullcontext() if reason is None else pytest.raises(DamagedImage, match=reason):
                assert read_image(tmp_path / "large.png").size == (width, 1000)
    finally:
        _formats.cache_clear()


@pytest.mark.parametrize(
    ("min_side", "size"), [(None, (1600, 1200)), (1201, (1600, 1200)), (601, (1600, 1200)), (600, (800, 600))]
)
def test_reduced_decoding_never_goes_below_the_wanted_side(tmp_path, min_side, size):
    Image.new("RGB", (1600, 1200)).save(tmp_path / "photo.jpg")
    assert read_image(tmp_path / "photo.jpg", min_side=min_side).size == size


def test_reduced_decoding_shows_the_same_picture(tmp_path):
    Image.fromarray(gradient(600, 800)).save(tmp_path / "photo.jpg", quality=95)
    full, reduced = read_image(tmp_path / "photo.jpg"), read_image(tmp_path / "photo.jpg", min_side=70)
    assert reduced.size == (100, 75)
    expected = np.asarray(full.resize(reduced.size, Image.Resampling.BOX)).astype(int)
    assert np.abs(np.asarray(reduced) - expected).max() <= 8


def test_pillow_warnings_do_not_leak_and_other_warnings_still_do(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000_000)
    Image.new("RGB", (1600, 1000)).save(tmp_path / "large.jpg")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with pytest.warns(Image.DecompressionBombWarning):
            Image.open(tmp_path / "large.jpg").close()  # the warning is real
        read_image(tmp_path / "large.jpg", min_side=100)
        assert not seen
        warnings.warn("somebody else's", UserWarning, stacklevel=1)
        assert len(seen) == 1
