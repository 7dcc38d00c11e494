"""Random resized crops: torchvision's distribution of boxes, Pillow's pixels."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import RandomResizedCrop

from moco.data.augment import RATIO, CropBoxes, resized_crop
from tests.data.examples import generator, ks_distance

DRAWS = 3000
SIZES = [(96, 96), (40, 90), (375, 250), (7, 7), (8, 200), (1, 30)]  # two square, two elongated, two extremely so


def boxes_of(count, height, width, *, crop_min=0.2, seed=2):
    """(count, 4): top, left, height, width."""
    crops = CropBoxes(count, crop_min=crop_min, generator=generator(seed))
    return np.array([crops.box(number, height, width) for number in range(count)])


def statistics(boxes, height, width):
    top, left, box_height, box_width = boxes.T.astype(float)
    return {
        "top": top,
        "left": left,
        "height": box_height,
        "width": box_width,
        "area": box_height * box_width / (height * width),
        "aspect": box_width / box_height,
        "bottom": top + box_height,
        "right": left + box_width,
        # What couples area, aspect and place: wide crops lie high or low, narrow ones left or right.
        "top share": (top + 0.5) / (height - box_height + 1),
        "left share": (left + 0.5) / (width - box_width + 1),
    }


def test_boxes_are_distributed_as_torchvisions():
    """Alpha 0.001 for each comparison at these seeds: sqrt(-ln(0.0005) / 2) * sqrt(2 / n)."""
    limit = float(np.sqrt(-np.log(0.0005) / DRAWS))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        for (height, width), crop_min in zip(SIZES, [0.2, 0.08] * 3, strict=True):
            image = torch.empty(1, height, width)
            theirs = [RandomResizedCrop.get_params(image, [crop_min, 1.0], list(RATIO)) for _ in range(DRAWS)]
            expected = statistics(np.array(theirs), height, width)
            ours = statistics(boxes_of(DRAWS, height, width, crop_min=crop_min), height, width)
            for name, values in ours.items():
                assert ks_distance(values, expected[name]) < limit, (height, width, name)


def test_area_aspect_and_both_places_are_uniform_and_independent():
    """Of the boxes that fit at the first attempt, as nearly all below a third of the area do."""
    count, side = 20_000, 4000
    found = statistics(boxes_of(count, side, side, crop_min=0.05), side, side)
    small = found["area"] < 0.3  # beyond, wide and narrow ones are rejected
    aspect = (np.log(found["aspect"]) / np.log(4 / 3) + 1) / 2
    values = np.stack([(found["area"] - 0.05) / 0.25, aspect, found["top share"], found["left share"]])[:, small]
    even = (np.arange(small.sum()) + 0.5) / small.sum()
    for value in values:
        assert ks_distance(value, even) < 1.95 / np.sqrt(small.sum())  # one sample, alpha 0.001
    assert np.abs(np.corrcoef(values) - np.eye(4)).max() < 4.5 / np.sqrt(small.sum())


@settings(max_examples=100, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 3000), st.integers(1, 3000)), min_size=1, max_size=20),
    crop_min=st.floats(1e-4, 1.0),
    seed=st.integers(0, 1000),
)
@example(sizes=[(1, 1), (1, 2), (1, 3000), (3000, 1), (2, 3), (3, 2), (1, 10**6)], crop_min=0.2, seed=0)
@example(sizes=[(1, 1), (2, 2), (3, 4), (4, 3), (500, 375)], crop_min=1.0, seed=0)
def test_boxes_lie_in_the_image(sizes, crop_min, seed):
    crops = CropBoxes(len(sizes), crop_min=crop_min, generator=generator(seed))
    for number, (height, width) in enumerate(sizes):
        top, left, box_height, box_width = crops.box(number, height, width)
        assert 0 <= top < top + box_height <= height
        assert 0 <= left < left + box_width <= width


def test_the_whole_image_is_reached():
    """A long image gives crops at both its ends, a whole share the whole square."""
    top, left, height, width = boxes_of(2000, 5, 9).T
    assert set(left) >= {0, 1, 2, 3, 4, 5}
    assert (left + width == 9).any()
    assert (top + height == 5).any()
    assert np.unique(boxes_of(50, 12, 12, crop_min=1.0), axis=0).tolist() == [[0, 0, 12, 12]]


def test_a_box_depends_on_seed_number_and_size_alone():
    state = torch.get_rng_state()
    first = boxes_of(100, 50, 60, seed=4)
    assert torch.equal(torch.get_rng_state(), state), "the global generator is left alone"
    crops = CropBoxes(100, crop_min=0.2, generator=generator(4))
    for number in torch.randperm(100, generator=generator(0)).tolist():
        crops.box(number, 7, 300)
        assert crops.box(number, 50, 60) == tuple(first[number])
    assert len(np.unique(first, axis=0)) > 90, "one draw a sample"
    assert (boxes_of(100, 50, 60, seed=5) != first).any()


def cropped(pixels, box, size, *, flip=False):
    out = np.empty((size, size, 3), dtype=np.uint8)
    resized_crop(pixels, box, flip, out)
    return out.astype(int)


@pytest.mark.parametrize(("height", "width", "size"), [(64, 48, 24), (20, 31, 32), (1, 9, 4), (300, 200, 32)])
def test_pixels_are_pillows_to_one_level(height, width, size):
    """Reduced and enlarged, whole images, single pixels and columns, mirrored or not."""
    pixels = np.random.default_rng(3).integers(0, 256, (height, width, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    pixels = np.asarray(image)
    assert not pixels.flags.writeable, "as Pillow and memory maps give them"
    extremes = [(0, 0, height, width), (height - 1, width - 1, 1, 1), (0, width // 2, height, 1)]
    for box in [*extremes, *boxes_of(15, height, width, crop_min=0.01).tolist()]:
        top, left, box_height, box_width = box
        corners = (left, top, left + box_width, top + box_height)
        expected = np.asarray(image.crop(corners).resize((size, size), Image.Resampling.BILINEAR)).astype(int)
        assert np.abs(cropped(pixels, box, size) - expected).max() <= 1, box
        assert np.abs(cropped(pixels, box, size, flip=True) - expected[:, ::-1]).max() <= 1, box


def test_flat_images_stay_flat():
    for value in (0, 90, 255):
        flat = np.full((30, 40, 3), value, dtype=np.uint8)
        for box in boxes_of(10, 30, 40).tolist():
            assert (cropped(flat, box, 16) == value).all()
