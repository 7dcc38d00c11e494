"""More channels than RGB and alpha: never dropped without a word, and each file says why it is not read."""

import logging

import numpy as np
import pytest
from tests.data.image_files import tiff

from moco.data.arrays import ArraySource
from moco.data.decode import DamagedImage, read_image
from moco.data.source import open_source
from moco.errors import DataError


def bands(count: int, dtype=np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (12, 10, count)).astype(dtype)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_fourth_band_that_is_not_alpha_is_refused_and_alpha_is_dropped(tmp_path, dtype, packed):
    file, values = tmp_path / "a.tif", bands(4, dtype)
    file.write_bytes(tiff(values, extra=0, packed=packed))
    with pytest.raises(DamagedImage, match="4 bands, the last not alpha: .* save the bands"):
        read_image(file)
    file.write_bytes(tiff(values, extra=2, packed=packed))
    if dtype == np.uint8:
        np.testing.assert_array_equal(np.asarray(read_image(file)), values[..., :3])


@pytest.mark.parametrize(("count", "dtype", "bits"), [(13, np.uint8, 8), (13, np.uint16, 16), (5, np.uint16, 16)])
@pytest.mark.parametrize("order", ["<", ">"])
def test_many_bands_have_a_reason_of_their_own_and_pillow_says_nothing(tmp_path, caplog, count, dtype, bits, order):
    (tmp_path / "a.tif").write_bytes(tiff(bands(count, dtype), extra=0, order=order))
    with caplog.at_level(logging.INFO), pytest.raises(DamagedImage, match=f"TIFF of {count} bands of {bits} bits: "):
        read_image(tmp_path / "a.tif")
    assert not caplog.records


def test_a_folder_of_many_bands_is_refused_with_that_reason(tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.tif").write_bytes(tiff(bands(13), extra=0))
    with pytest.raises(DataError, match=r"none of 3 images .*0\.tif: TIFF of 13 bands"):
        open_source(tmp_path)


def test_one_image_in_an_array_is_a_question_of_shape(tmp_path):
    np.save(tmp_path / "one.npy", bands(3))
    with pytest.raises(DataError, match=r"one image in colour or 12 grey ones of 10 x 3\? .*\(N, H, W, 3\)"):
        open_source(tmp_path / "one.npy")
    with pytest.raises(DataError, match="one image in colour or 3 grey ones of 12 x 10"):
        ArraySource(bands(3).transpose(2, 0, 1))
    np.save(tmp_path / "grey.npy", bands(3)[..., None])
    assert len(open_source(tmp_path / "grey.npy")[0]) == 12


def test_the_fourth_channel_of_an_array_is_said_to_be_dropped():
    images = np.stack([bands(4)] * 5)
    assert len(ArraySource(images, name="scene").remarks) == 1
    assert "scene: the fourth of its channels" in ArraySource(images, name="scene").remarks[0]
    np.testing.assert_array_equal(ArraySource(images).pixels(1), bands(4)[..., :3])
    for fitting in (images[..., :3], images[..., :1], images[..., 0]):
        assert not ArraySource(fitting).remarks
