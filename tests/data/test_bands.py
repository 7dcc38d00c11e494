"""Any number of channels: all are read, none is dropped without a word, and each file says why it is not read."""

import logging
import sys

import numpy as np
import pytest
from PIL import Image

from moco.data.arrays import ArraySource
from moco.data.bands import Layout
from moco.data.decode import DamagedImage, image_layout, read_image, read_pixels, unscaled
from moco.data.patterns import matching
from moco.data.source import open_source
from moco.errors import DataError
from tests.data.image_files import deep_png, tiff


def bands(count: int, dtype=np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (12, 10, count)).astype(dtype)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("library", [None, "tifffile"])
def test_a_fourth_band_that_is_not_alpha_is_read_and_alpha_is_dropped(
    tmp_path, monkeypatch, dtype, order, packed, library
):
    if library is None:
        monkeypatch.setitem(sys.modules, "tifffile", None)
    else:
        pytest.importorskip(library)
    file, values = tmp_path / "a.tif", bands(4, dtype) * (257 if dtype == np.uint16 else 1)
    file.write_bytes(tiff(values, extra=0, packed=packed, order=order))
    assert image_layout(file) == Layout(12, 10, 4, False)
    np.testing.assert_array_equal(read_pixels(file, channels=4), bands(4))
    if dtype == np.uint16:
        deep = np.random.default_rng(1).integers(0, 65536, (12, 10, 4)).astype(np.uint16)
        (tmp_path / "deep.tif").write_bytes(tiff(deep, extra=0, packed=packed, order=order))
        np.testing.assert_array_equal(unscaled(tmp_path / "deep.tif"), deep)
    with pytest.raises(DamagedImage, match="4 channels, expected 3: state --channels 4, or leave"):
        read_image(file)
    file.write_bytes(tiff(values, extra=2, packed=packed, order=order))
    assert image_layout(file) == Layout(12, 10, 4, True)
    np.testing.assert_array_equal(np.asarray(read_image(file)), bands(4)[..., :3])


MANY = [(13, np.uint8), (13, np.uint16), (5, np.uint16), (2, np.uint8)]


@pytest.mark.parametrize(("count", "dtype"), MANY)
@pytest.mark.parametrize("order", ["<", ">"])
def test_many_bands_say_what_reads_them_and_pillow_says_nothing(tmp_path, caplog, monkeypatch, count, dtype, order):
    monkeypatch.setitem(sys.modules, "tifffile", None)
    (tmp_path / "a.tif").write_bytes(tiff(bands(count, dtype), extra=0, order=order))
    assert image_layout(tmp_path / "a.tif") == Layout(12, 10, count, False)
    with caplog.at_level(logging.INFO):
        with pytest.raises(DamagedImage, match=rf"{count} channels, .* pip install 'moco-contrast\[tiff\]'"):
            read_pixels(tmp_path / "a.tif", channels=count)
        with pytest.raises(DamagedImage, match=f"{count} channels, expected 3: state --channels {count}"):
            read_image(tmp_path / "a.tif")
    assert not caplog.records


@pytest.mark.parametrize(("count", "dtype"), MANY)
@pytest.mark.parametrize("planes", [False, True])
def test_many_bands_are_read_by_tifffile(tmp_path, count, dtype, planes):
    pytest.importorskip("tifffile")
    for number in range(3):
        packed = number == 1 and not planes
        (tmp_path / f"{number}.tif").write_bytes(tiff(bands(count, dtype), extra=0, planes=planes, packed=packed))
    source, _ = open_source(tmp_path)
    assert (source.channels, source.value_range) == (count, None if dtype == np.uint8 else 255)
    np.testing.assert_array_equal(list(source), [bands(count)] * 3)
    np.testing.assert_array_equal(source.shapes(np.arange(3)), [[12, 10]] * 3)


def test_floats_in_a_tiff_are_read_by_tifffile(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    values = np.linspace(-1, 3, 12 * 10 * 3, dtype=np.float32).reshape(12, 10, 3)
    for number in range(2):
        tifffile.imwrite(tmp_path / f"{number}.tif", values, photometric="rgb")
    source, _ = open_source(tmp_path)
    assert (source.channels, source.value_range) == (3, (-1.0, 3.0))
    np.testing.assert_array_equal(source.pixels(0), np.floor((values + 1) / 4 * 255 + 0.5))


def test_a_folder_of_many_bands_is_refused_with_that_reason(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tifffile", None)
    for number in range(3):
        (tmp_path / f"{number}.tif").write_bytes(tiff(bands(13), extra=0))
    with pytest.raises(DataError, match=r"none of 3 images .*0\.tif: TIFF of 13 channels.* pip install"):
        open_source(tmp_path)


def test_one_image_in_an_array_is_a_question_of_shape(tmp_path):
    np.save(tmp_path / "one.npy", bands(3))
    with pytest.raises(DataError, match=r"one image in colour or 12 grey ones of 10 x 3\? .*\(N, H, W, 3\)"):
        open_source(tmp_path / "one.npy")
    with pytest.raises(DataError, match="one image in colour or 3 grey ones of 12 x 10"):
        ArraySource(bands(3).transpose(2, 0, 1))
    np.save(tmp_path / "grey.npy", bands(3)[..., None])
    assert len(open_source(tmp_path / "grey.npy")[0]) == 12


def test_every_channel_of_an_array_is_used_and_four_may_be_three_and_alpha():
    images = np.stack([bands(4)] * 5)
    source, _ = open_source(images)
    assert (source.channels, len(source.remarks)) == (4, 1)
    np.testing.assert_array_equal(source.pixels(1), bands(4))
    dropped, _ = open_source(images, channels=3)
    assert "the fourth of its channels is taken for alpha" in dropped.remarks[0]
    np.testing.assert_array_equal(dropped.pixels(1), bands(4)[..., :3])
    for fitting in (images[..., :3], images[..., :1], images[..., 0]):
        assert open_source(fitting)[0].channels == 3
        assert not open_source(fitting)[0].remarks
    first = np.stack([bands(7).transpose(2, 0, 1)] * 5)
    np.testing.assert_array_equal(open_source(first)[0].pixels(2), bands(7))


def test_grey_stays_one_channel_where_that_is_stated(tmp_path):
    grey = bands(1)
    Image.fromarray(grey[..., 0]).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(deep_png(np.concatenate([grey, grey], axis=-1).astype(np.uint16) * 257))
    Image.fromarray(np.dstack([grey, grey]), "LA").save(tmp_path / "c.png")
    for channels, expected in ((1, grey), (None, np.repeat(grey, 3, axis=-1)), (3, np.repeat(grey, 3, axis=-1))):
        source, _ = open_source(tmp_path, channels=channels)
        assert source.channels == expected.shape[-1]
        np.testing.assert_array_equal(list(source.in_range(65535)), [expected] * 3)
    array, _ = open_source(np.stack([grey] * 2), channels=1)
    np.testing.assert_array_equal(array.pixels(0), grey)


def test_dropped_alpha_is_said_and_kept_where_four_channels_are_stated(tmp_path):
    for number in range(2):
        Image.fromarray(bands(4), "RGBA").save(tmp_path / f"{number}.png")
    source, _ = open_source(tmp_path)
    np.testing.assert_array_equal(source.pixels(0), bands(4)[..., :3])
    assert "the alpha channel of 0.png is not used" in source.remarks[0]
    kept, _ = open_source(tmp_path, channels=4)
    np.testing.assert_array_equal(kept.pixels(0), bands(4))
    assert not kept.remarks


@pytest.mark.parametrize("stated", [1, 2, 5])
def test_channels_that_the_images_do_not_have_are_refused(tmp_path, stated):
    for number in range(2):
        Image.fromarray(bands(3)).save(tmp_path / f"{number}.png")
    listed = [Image.fromarray(bands(3))] * 2
    for data in (tmp_path, np.stack([bands(3)] * 2), listed):
        with pytest.raises(DataError, match=f"has 3 channels, expected {stated}: state --channels 3"):
            open_source(data, channels=stated)


def test_files_of_different_channels_are_refused_with_both_names_and_may_be_chosen_from(tmp_path):
    Image.fromarray(bands(3)).save(tmp_path / "a.png")
    Image.fromarray(bands(3)).save(tmp_path / "b.png")
    for name in ("c", "d"):
        (tmp_path / f"{name}.tif").write_bytes(tiff(bands(4), extra=0))
    with pytest.raises(DataError, match=r"a\.png has 3 channels, c\.tif 4 channels: choose one kind with --include"):
        open_source(tmp_path)
    source, _ = open_source(tmp_path, choose=lambda source: matching(source, ["*.tif"], []))
    assert (len(source), source.channels) == (2, 4)


def test_a_folder_of_arrays_is_one_of_images(tmp_path):
    for number in range(3):
        np.save(tmp_path / f"{number}.npy", bands(6) + number)
    source, _ = open_source(tmp_path)
    assert (len(source), source.channels, source.item_name(1)) == (3, 6, "1.npy")
    np.testing.assert_array_equal(source.pixels(1), bands(6) + 1)
    Image.fromarray(bands(3)).save(tmp_path / "a.png")
    Image.fromarray(bands(3)).save(tmp_path / "b.png")
    source, _ = open_source(tmp_path)  # beside ordinary images, arrays are something else
    assert len(source) == 2
    assert "not read: 3 .npy" in source.remarks[0]


def test_an_array_file_that_is_no_image_says_so(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((2, 3, 4, 5)))
    np.save(tmp_path / "b.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(DataError, match=r"none of 2 .*float64 array of shape \(2, 3, 4, 5\): expected"):
        open_source(tmp_path)


@pytest.mark.parametrize("kind", ["files", "array"])
def test_floats_are_spread_from_the_smallest_to_the_largest_value_found(tmp_path, kind):
    values = np.linspace(-2, 6, 3 * 12 * 10 * 5, dtype=np.float32).reshape(3, 12, 10, 5)
    values[1, 0, 0, 0] = np.nan
    for number, image in enumerate(values):
        np.save(tmp_path / f"{number}.npy", image)
    source, _ = open_source(tmp_path if kind == "files" else values)
    assert source.value_range == (-2.0, 6.0)
    assert "values -2 to 6 become 0 to 255" in source.remarks[-1]
    expected = np.floor(np.nan_to_num((values + 2) / 8 * 255) + 0.5)
    np.testing.assert_array_equal(list(source), expected)
    narrow = source.in_range((-1.0, 5.0))
    np.testing.assert_array_equal(narrow.pixels(2), np.floor(((values[2] + 1) / 6 * 255).clip(0, 255) + 0.5))
    narrow.pixels(0)
    assert (narrow.clipped, "2 images hold values outside -1 to 5" in narrow.closing_line()) == (2, True)


def test_an_image_of_an_array_outside_every_known_range_is_a_damaged_one():
    values = np.zeros((40, 8, 8, 3), dtype=np.int16)
    values[1] = -5  # not in the sample
    source, _ = open_source(values)
    assert source.value_range == 255
    with pytest.raises(DamagedImage, match=r"array\[1\]: grey values from -5 to -5"):
        source.pixels(1)


def test_floats_from_0_to_1_keep_that_meaning():
    source, _ = open_source(np.full((2, 8, 8, 3), 0.5))
    assert (source.value_range, int(source.pixels(0).max())) == ((0.0, 1.0), 128)
