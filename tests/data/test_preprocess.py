"""One preprocessing, whatever the image comes as: torchvision's Resize, CenterCrop, ToTensor, Normalize on PIL."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from moco.data.decode import DamagedImage
from moco.data.preprocess import Preprocessing, centre_pixels
from moco.errors import DataError
from moco.normalization import CIFAR, IMAGENET

# Width and height: odd, both orientations, larger and smaller than the target, 1 to 3 pixels to be cut off.
SHAPES = [(131, 97), (97, 131), (301, 299), (33, 35), (20, 31), (64, 64), (49, 51), (147, 150), (40, 640)]


def jpeg(path, width, height):
    coarse = np.random.default_rng(width).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(path, quality=95)
    return path


@pytest.mark.parametrize("size", [16, 33, 48])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_file_goes_in_as_torchvision_prepares_it(tmp_path, size, shape):
    file = jpeg(tmp_path / "a.jpg", *shape)
    steps = [transforms.Resize(size), transforms.CenterCrop(size), transforms.ToTensor()]
    with Image.open(file) as image:
        expected = transforms.Compose([*steps, transforms.Normalize(*IMAGENET)])(image.convert("RGB"))
    got = Preprocessing(size, *IMAGENET)(file)
    assert got.dtype == torch.float32
    assert torch.equal(got, expected)


def test_path_image_array_and_tensor_are_one(tmp_path):
    file, preprocess = jpeg(tmp_path / "a.jpg", 131, 97), Preprocessing(24, *CIFAR)
    expected = preprocess(file)
    with Image.open(file) as image:
        pixels = np.array(image)
        assert torch.equal(preprocess(image), expected)
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    for given in (str(file), pixels, tensor):
        assert torch.equal(preprocess(given), expected)
    assert torch.equal(preprocess(torch.stack([tensor, tensor.flip(2)]))[0], expected)
    assert preprocess(tensor[None][:0]).shape == (0, 3, 24, 24)
    assert torch.equal(preprocess.normalize(torch.tensor(centre_pixels(pixels, 24)).permute(2, 0, 1)), expected)


def test_photographs_are_turned_upright(tmp_path):
    with Image.open(jpeg(tmp_path / "a.jpg", 60, 40)) as image:
        exif = image.getexif()
        exif[0x0112] = 6
        image.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    with Image.open(tmp_path / "turned.jpg") as image:
        upright = image.transpose(Image.Transpose.ROTATE_270)
    preprocess = Preprocessing(16, *IMAGENET)
    assert torch.equal(preprocess(tmp_path / "turned.jpg"), preprocess(upright))


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "LA"])
def test_any_mode_becomes_three_channels(mode):
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (20, 31, 3), dtype=np.uint8)).convert(mode)
    preprocess = Preprocessing(16, *IMAGENET)
    assert torch.equal(preprocess(image), preprocess(image.convert("RGB")))


def test_a_strip_does_not_fill_the_memory():
    strip = np.zeros((1, 3_000_000, 3), dtype=np.uint8)
    strip[:, 1_499_900:1_500_100] = 255
    assert (centre_pixels(strip, 64) == 255).all()


def test_it_travels_as_json_and_files_of_earlier_versions_are_read():
    preprocess = Preprocessing(96, *IMAGENET)
    stated = json.loads(json.dumps(preprocess.as_dict()))
    assert Preprocessing.from_dict(stated) == preprocess
    del stated["resize"]
    assert Preprocessing.from_dict(stated) == preprocess


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"crop": "none"}, "crop"),
        ({"resize": "both sides"}, "resize"),
        ({"color": "BGR"}, "color"),
        ({"scale": "0 to 255"}, "scale"),
        ({"size": 0}, "size"),
        ({"size": None}, "size"),
        ({"mean": [0.5]}, "mean"),
        ({"std": [1, 1, 0]}, "std"),
        ({"std": "wide"}, "std"),
    ],
)
def test_another_treatment_is_refused(change, named):
    with pytest.raises(DataError, match=named):
        Preprocessing.from_dict({**Preprocessing(8, *IMAGENET).as_dict(), **change})
    for empty in ({}, [1]):
        with pytest.raises(DataError):
            Preprocessing.from_dict(empty)


@pytest.mark.parametrize(
    "given",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        torch.zeros(3, 4, 4),
        torch.zeros(4, 4, 3, dtype=torch.uint8),
        7,
    ],
)
def test_what_is_no_image_is_named(given):
    with pytest.raises(DataError) as error:
        Preprocessing(8, *IMAGENET)(given)
    assert "need" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"no image")
    with pytest.raises(DamagedImage, match="a.jpg"):
        Preprocessing(8, *IMAGENET)(tmp_path / "a.jpg")
