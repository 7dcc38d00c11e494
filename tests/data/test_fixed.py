"""Evaluation sees the centre square of every readable image, in order, without chance."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as F

from moco.data import fixed
from moco.data.arrays import ArraySource
from moco.data.decode import DamagedImage
from moco.data.fixed import fixed_images, normalized_batches
from moco.data.skipped import SkippedFiles
from moco.errors import DataError


class Gallery:
    """Images of differing sizes; those in `damaged` cannot be read."""

    name = "gallery"

    def __init__(self, damaged=()):
        generator = np.random.default_rng(0)
        self.images = [
            Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8))
            for height, width in [(20, 20), (20, 33), (41, 20), (1, 9), (16, 16), (64, 50)]
        ]
        self.damaged = damaged

    def item_name(self, index):
        return f"{index}.jpg"

    def uniform_array(self):
        return None

    def image(self, index, *, min_side=None):
        assert min_side == 16
        if index in self.damaged:
            raise DamagedImage(self.item_name(index), "truncated")
        return self.images[index]


def test_the_centre_square_is_shown_whole_and_not_mirrored():
    indices = np.array([5, 1, 2, 0, 3, 4])
    skipped = SkippedFiles()
    pixels, read = fixed_images(Gallery(), indices, image_size=16, skipped=skipped)
    assert pixels.shape == (6, 16, 16, 3)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(read, indices)
    for index, got in zip(indices, pixels, strict=True):
        image = Gallery().images[index]
        side, (width, height) = min(image.size), image.size
        expected = F.resized_crop(image, (height - side) // 2, (width - side) // 2, side, side, [16, 16])
        np.testing.assert_array_equal(got, np.asarray(expected))
    assert skipped.count == 0


def test_damaged_images_are_left_out_and_listed():
    skipped = SkippedFiles()
    pixels, read = fixed_images(Gallery(damaged=(1, 4)), np.arange(6), image_size=16, skipped=skipped)
    np.testing.assert_array_equal(read, [0, 2, 3, 5])
    whole, _ = fixed_images(Gallery(), np.arange(6), image_size=16, skipped=SkippedFiles())
    np.testing.assert_array_equal(pixels, whole[read])
    assert [item for item, _ in skipped.items()] == ["1.jpg", "4.jpg"]
    assert all("truncated" in reason for _, reason in skipped.items())


def test_no_readable_image_is_refused():
    with pytest.raises(DataError, match="none of 2 images .* check gallery"):
        fixed_images(Gallery(damaged=range(6)), np.array([0, 3]), image_size=16, skipped=SkippedFiles())


def test_batches_are_normalised_as_torchvision_does_and_hold_every_image_in_order():
    pixels, _ = fixed_images(Gallery(), np.arange(6), image_size=16, skipped=SkippedFiles())
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    batches = list(normalized_batches(pixels, mean=mean, std=std, batch_size=4))
    assert [len(batch) for batch in batches] == [4, 2]
    assert all(batch.is_contiguous(memory_format=torch.channels_last) for batch in batches)
    floats = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    torch.testing.assert_close(torch.cat(batches), F.normalize(floats, list(mean), list(std)), rtol=0, atol=1e-6)


def test_small_images_of_an_array_are_those_that_threads_would_give(monkeypatch):
    source = ArraySource(np.random.default_rng(0).integers(0, 256, (70, 24, 40, 3), dtype=np.uint8))
    indices = np.arange(69, -1, -1)
    made, kept = fixed_images(source, indices, image_size=16, skipped=SkippedFiles())
    np.testing.assert_array_equal(kept, indices)
    monkeypatch.setattr(fixed, "SMALL", 0)
    np.testing.assert_array_equal(made, fixed_images(source, indices, image_size=16, skipped=SkippedFiles())[0])
    np.testing.assert_array_equal(made[:1], fixed_images(source, indices[:1], image_size=16, skipped=SkippedFiles())[0])
