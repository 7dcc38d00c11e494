"""TIFF files of several pages, and alpha of 16 bits: said, or used as channels where that is stated."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import moco
from moco.data.bands import Layout
from moco.data.bit_depth import Depth
from moco.data.decode import DamagedImage, image_layout, read_pixels
from moco.data.source import open_source
from moco.errors import DataError
from tests.data.image_files import deep_png


def stack(path, pages: np.ndarray):
    """A TIFF file of a page for each of (P, H, W) or (P, H, W, 3)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    first, *others = (Image.fromarray(page) for page in pages)
    first.save(path, save_all=True, append_images=others)
    return path


def values(count: int, dtype=np.uint8, channels: tuple[int, ...] = ()) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 250, (count, 9, 7, *channels)).astype(dtype)


def test_the_first_page_is_used_and_a_line_says_how_many_there_are(tmp_path):
    for name in ("a", "b"):
        stack(tmp_path / "photos" / f"{name}.tif", values(5))
    Image.fromarray(values(1)[0]).save(tmp_path / "photos" / "c.png")
    source, _ = open_source(tmp_path / "photos", least=1)
    np.testing.assert_array_equal(source.pixels(0), np.repeat(values(5)[0][..., None], 3, axis=2))
    (said,) = source.remarks
    assert "2 of 3 files looked at have several pages (a.tif: 5), of which only the first is used" in said
    assert said.endswith("where they are channels, state --channels 5")
    assert source.first_only == 1, "of the image that was read"
    assert "1 file has several pages or frames, of which only the first was used" in source.closing_line()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_stated_channels_take_a_page_each(tmp_path, dtype):
    pages = values(5, dtype)
    file = stack(tmp_path / "photos" / "a.tif", pages)
    assert image_layout(file) == Layout(9, 7, 1, pages=5)
    source, _ = open_source(tmp_path / "photos", least=1, channels=5)
    (said,) = [line for line in source.remarks if "page" in line]
    assert said == "photos: 1 of 1 files looked at have 5 pages, which are the channels"
    np.testing.assert_array_equal(source.pixels(0), np.moveaxis(pages, 0, 2))
    assert source.value_range == (255 if dtype == np.uint16 else None)
    with pytest.raises(DataError, match="a.tif has 1 channel, 5 pages, expected 4"):
        open_source(tmp_path / "photos", least=1, channels=4)


def test_the_range_of_pages_is_that_of_all_of_them(tmp_path):
    pages = values(4, np.uint16)
    pages[3] *= 16
    stack(tmp_path / "photos" / "a.tif", pages)
    assert open_source(tmp_path / "photos", least=1, channels=4)[0].value_range == 4095
    assert open_source(tmp_path / "photos", least=1)[0].value_range == 255


def test_pages_in_colour_three_pages_and_a_thumbnail(tmp_path):
    stack(tmp_path / "colour" / "a.tif", values(4, channels=(3,)))
    (said,) = open_source(tmp_path / "colour", least=1)[0].remarks
    assert said.endswith(
        "(a.tif: 4), of which only the first is used; where they matter, save each as a file of its own"
    )
    stack(tmp_path / "three" / "a.tif", values(3))
    source = open_source(tmp_path / "three", least=1, channels=3)[0]
    assert "several pages" in source.remarks[0], "three channels of grey are the first page repeated, and it is said"
    large, small = Image.fromarray(values(1)[0]), Image.fromarray(values(1)[0][:4, :4])
    large.save(tmp_path / "thumb.tif", save_all=True, append_images=[small])
    assert image_layout(tmp_path / "thumb.tif").pages == 1, "a page of another size is none of the stack"


def test_a_pack_keeps_pages_that_are_channels(tmp_path):
    pages = values(5)
    stack(tmp_path / "photos" / "a.tif", pages)
    stack(tmp_path / "photos" / "b.tif", pages)
    moco.pack(tmp_path / "photos", out=tmp_path / "x.pack", format="raw", short_side=0, channels=5, quiet=True)
    np.testing.assert_array_equal(open_source(tmp_path / "x.pack", least=1)[0].pixels(0), np.moveaxis(pages, 0, 2))


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_png_of_16_bits_uses_its_range_and_alpha_is_a_channel_where_stated(tmp_path, channels):
    deep = np.random.default_rng(0).integers(0, 4096, (9, 7, channels)).astype(np.uint16)
    deep[0, 0] = 4095
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(deep_png(deep))
    expected = (deep.astype(np.int64) * 255 + 2047) // 4095
    own = expected[..., : channels - (channels != 3)]
    source, _ = open_source(tmp_path / "photos", least=1)
    assert source.value_range == 4095
    np.testing.assert_array_equal(source.pixels(0), np.repeat(own, 3, axis=2) if channels == 2 else own)
    assert any("alpha channel" in line for line in source.remarks) == (channels != 3)
    whole, _ = open_source(tmp_path / "photos", least=1, channels=channels)
    np.testing.assert_array_equal(whole.pixels(0), expected)
    with pytest.raises(DamagedImage, match="expected 5"):
        read_pixels(tmp_path / "photos" / "a.png", channels=5, depth=Depth.of(4095))
