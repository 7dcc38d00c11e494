"""A user's image goes into the network exactly as the monitor's images did."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from moco.data.arrays import ArraySource
from moco.data.decode import DamagedImage
from moco.data.fixed import fixed_images, normalized_batches
from moco.data.folder import FolderSource
from moco.data.preprocess import Preprocessing
from moco.data.skipped import SkippedFiles
from moco.data.views import CIFAR, IMAGENET
from moco.errors import DataError


def monitored(source, size, mean, std):
    pixels, _ = fixed_images(source, np.arange(len(source)), image_size=size, skipped=SkippedFiles())
    return torch.cat(list(normalized_batches(pixels, mean=mean, std=std, batch_size=5)))


@pytest.mark.parametrize(("size", "normalization"), [(16, IMAGENET), (24, CIFAR), (37, IMAGENET)])
def test_an_image_alone_is_what_the_monitor_sees(photos, size, normalization):
    source = FolderSource(photos)
    preprocess = Preprocessing(size, *normalization)
    expected = monitored(source, size, *normalization)
    for index in range(len(source)):
        for given in (source.path(index), str(source.path(index)), source.image(index, min_side=size)):
            got = preprocess(given)
            assert got.dtype == torch.float32
            assert got.shape == (3, size, size)
            assert torch.equal(got, expected[index])


def test_a_large_photograph_by_its_path_is_what_the_monitor_sees(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (200, 310, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "large.jpg")
    preprocess = Preprocessing(32, *IMAGENET)
    assert torch.equal(preprocess(tmp_path / "large.jpg"), monitored(FolderSource(tmp_path), 32, *IMAGENET)[0])


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "LA"])
def test_any_mode_becomes_three_channels(mode):
    rgb = Image.fromarray(np.random.default_rng(1).integers(0, 256, (20, 31, 3), dtype=np.uint8))
    image = rgb.convert(mode)
    expected = monitored(ArraySource(np.asarray(image.convert("RGB"))[None]), 16, *IMAGENET)[0]
    assert torch.equal(Preprocessing(16, *IMAGENET)(image), expected)


def test_batches_are_normalised_alike():
    preprocess = Preprocessing(8, *CIFAR)
    images = np.random.default_rng(2).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    batch = preprocess.normalize(torch.from_numpy(images).permute(0, 3, 1, 2))
    assert torch.equal(batch, torch.stack([preprocess(Image.fromarray(image)) for image in images]))
    assert torch.equal(batch, next(normalized_batches(images, mean=CIFAR[0], std=CIFAR[1], batch_size=3)))


def test_it_travels_as_json():
    preprocess = Preprocessing(96, *IMAGENET)
    assert Preprocessing.from_dict(json.loads(json.dumps(preprocess.as_dict()))) == preprocess
    assert preprocess.as_dict()["crop"] == "centre square"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"crop": "none"}, "crop"),
        ({"color": "BGR"}, "color"),
        ({"scale": "0 to 255"}, "scale"),
        ({"size": 0}, "size=0"),
        ({"size": None}, "size"),
        ({"mean": [0.5]}, "three values"),
        ({"std": [1, 1, 0]}, "above 0"),
        ({"std": "wide"}, "std"),
    ],
)
def test_another_treatment_is_refused(change, message):
    with pytest.raises(DataError, match=message):
        Preprocessing.from_dict({**Preprocessing(8, *IMAGENET).as_dict(), **change})
    with pytest.raises(DataError, match="need"):
        Preprocessing.from_dict({})
    with pytest.raises(DataError, match="need"):
        Preprocessing.from_dict([1])


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"no image")
    with pytest.raises(DamagedImage, match="a.jpg"):
        Preprocessing(8, *IMAGENET)(tmp_path / "a.jpg")
