"""Crops: torchvision's distribution of boxes, torchvision's and Pillow's pixels."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2 import functional as F

from moco.data.crop import RATIO, batched_resized_crop, resized_crop_image, sample_crops

DRAWS = 4000
SIZES = [(96, 96), (40, 90), (375, 250), (7, 7), (8, 200), (1, 30)]  # two square, two elongated, two extremely so


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def distance(first: np.ndarray, second: np.ndarray) -> float:
    """Kolmogorov-Smirnov: the largest distance of the two empirical distribution functions."""
    places = np.concatenate([first, second])
    shares = [np.searchsorted(np.sort(sample), places, side="right") / len(sample) for sample in (first, second)]
    return float(np.abs(shares[0] - shares[1]).max())


def statistics(boxes: np.ndarray, height: int, width: int) -> dict[str, np.ndarray]:
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


@pytest.mark.parametrize("scale", [(0.2, 1.0), (0.08, 1.0), (0.4, 0.7)])
def test_boxes_are_distributed_as_torchvisions(scale):
    """Alpha 0.001 for each comparison at these seeds: sqrt(-ln(0.0005) / 2) * sqrt(2 / n)."""
    limit = float(np.sqrt(-np.log(0.0005) / DRAWS))
    heights, widths = (torch.tensor(sides).repeat_interleave(DRAWS) for sides in zip(*SIZES, strict=True))
    mixed = torch.randperm(len(heights), generator=generator(1))  # sizes side by side, as in a folder
    boxes = torch.empty(len(heights), 4, dtype=torch.int64)
    boxes[mixed] = sample_crops(heights[mixed], widths[mixed], scale=scale, generator=generator(2))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        for number, (height, width) in enumerate(SIZES):
            image = torch.empty(1, height, width)
            ours = boxes[number * DRAWS : (number + 1) * DRAWS].numpy()
            theirs = np.array([RandomResizedCrop.get_params(image, list(scale), list(RATIO)) for _ in range(DRAWS)])
            expected = statistics(theirs, height, width)
            for name, values in statistics(ours, height, width).items():
                assert distance(values, expected[name]) < limit, (height, width, name)


def test_area_aspect_and_both_places_are_uniform_and_independent():
    """In an image so wide that every box fits, nothing is rejected; the aspect is uniform in its logarithm."""
    count, side = 20_000, 4000
    sides = torch.full((count,), side)
    boxes = sample_crops(sides, sides, scale=(0.05, 0.3), generator=generator(0)).numpy()
    found = statistics(boxes, side, side)
    area, aspect = (found["area"] - 0.05) / 0.25, (np.log(found["aspect"]) / np.log(4 / 3) + 1) / 2
    values = np.stack([area, aspect, found["top share"], found["left share"]])
    even = (np.arange(count) + 0.5) / count
    for value in values:
        assert distance(value, even) < 0.0138  # one sample, alpha 0.001
    assert np.abs(np.corrcoef(values) - np.eye(4)).max() < 4.5 / np.sqrt(count)


@settings(max_examples=150, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 3000), st.integers(1, 3000)), min_size=1, max_size=20),
    low=st.floats(1e-4, 1.0),
    share=st.floats(0, 1),
    seed=st.integers(0, 1000),
)
@example(sizes=[(1, 1), (1, 2), (1, 3000), (3000, 1), (2, 3), (3, 2), (1, 10**6)], low=0.2, share=1.0, seed=0)
@example(sizes=[(1, 1), (2, 2), (3, 4), (4, 3), (500, 375)], low=1.0, share=1.0, seed=0)
def test_boxes_lie_in_the_image(sizes, low, share, seed):
    heights, widths = (torch.tensor(sides) for sides in zip(*sizes, strict=True))
    boxes = sample_crops(heights, widths, scale=(low, low + share * (1 - low)), generator=generator(seed))
    assert boxes.dtype == torch.int64
    assert boxes.shape == (len(sizes), 4)
    top, left, box_height, box_width = boxes.T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (box_height >= 1).all()
    assert (box_width >= 1).all()
    assert (top + box_height <= heights).all()
    assert (left + box_width <= widths).all()


def test_the_whole_image_is_reached():
    """A long image gives crops at both its ends, a whole share the whole square."""
    boxes = sample_crops(torch.full((2000,), 5), torch.full((2000,), 9), scale=(0.2, 1.0), generator=generator(0))
    assert set(boxes[:, 1].tolist()) >= {0, 1, 2, 3, 4, 5}
    assert (boxes[:, 1] + boxes[:, 3] == 9).any()
    assert (boxes[:, 0] + boxes[:, 2] == 5).any()
    whole = sample_crops(torch.full((50,), 12), torch.full((50,), 12), scale=(1.0, 1.0), generator=generator(0))
    assert whole.unique(dim=0).tolist() == [[0, 0, 12, 12]]


def test_same_seed_same_boxes_and_no_global_state():
    sides = torch.full((100,), 50)
    state = torch.get_rng_state()
    first = sample_crops(sides, sides, scale=(0.2, 1.0), generator=generator(4))
    assert torch.equal(first, sample_crops(sides, sides, scale=(0.2, 1.0), generator=generator(4)))
    assert not torch.equal(first, sample_crops(sides, sides, scale=(0.2, 1.0), generator=generator(5)))
    assert torch.equal(torch.get_rng_state(), state)
    assert len(first.unique(dim=0)) > 90  # one draw a sample


def noise(count: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator(seed))


def boxes_of(views: int, count: int, height: int, width: int) -> torch.Tensor:
    """Random boxes from a tiny share to the whole, with the extreme ones in front."""
    many = views * count
    boxes = sample_crops(
        torch.full((many,), height), torch.full((many,), width), scale=(0.01, 1.0), generator=generator(11)
    )
    boxes[0] = torch.tensor([0, 0, height, width])
    boxes[1] = torch.tensor([height - 1, width - 1, 1, 1])
    boxes[2] = torch.tensor([0, width // 2, height, 1])
    return boxes


@pytest.mark.parametrize("layout", ["NHWC", "NCHW", "float"])
@pytest.mark.parametrize("views", [1, 2, 3])
@pytest.mark.parametrize(
    ("height", "width", "size"), [(32, 32, 32), (64, 64, 32), (50, 37, 24), (9, 13, 32), (1, 8, 5)]
)
def test_batched_crop_is_torchvisions_resized_crop(height, width, size, views, layout):
    """Within 0.001 of 255: float32 weights on both sides, computed in another order."""
    count = 6
    images = noise(count, height, width)
    boxes = boxes_of(views, count, height, width)
    flip = torch.rand(views * count, generator=generator(5)) < 0.5
    given_images = images.float() if layout == "float" else images
    if layout == "NHWC":
        given_images = images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    crops = batched_resized_crop(given_images, boxes, size, flip)
    assert crops.dtype == torch.float32
    assert crops.shape == (views * count, 3, size, size)
    for at in range(views * count):
        expected = F.resized_crop(images[at % count].float(), *boxes[at].tolist(), [size, size], antialias=True)
        expected = F.horizontal_flip(expected) if flip[at] else expected
        torch.testing.assert_close(crops[at], expected, rtol=0, atol=1e-3)


def test_flat_images_stay_flat_and_nothing_leaves_the_range():
    images = torch.full((4, 3, 30, 40), 255, dtype=torch.uint8)
    images[1] = 0
    crops = batched_resized_crop(images, boxes_of(2, 4, 30, 40), 16, torch.zeros(8, dtype=torch.bool))
    torch.testing.assert_close(crops, images[:, :, :1, :1].float().repeat(2, 1, 16, 16), rtol=0, atol=1e-3)


def test_flip_mirrors_left_and_right_only():
    images = noise(5, 20, 26)
    boxes = boxes_of(2, 5, 20, 26)
    straight = batched_resized_crop(images, boxes, 16, torch.zeros(10, dtype=torch.bool))
    mirrored = batched_resized_crop(images, boxes, 16, torch.ones(10, dtype=torch.bool))
    torch.testing.assert_close(mirrored, straight.flip(3), rtol=0, atol=1e-3)
    assert (mirrored[0] - straight[0]).abs().max() > 20


@pytest.mark.parametrize(("height", "width", "size"), [(64, 48, 24), (20, 31, 32), (1, 9, 4), (300, 200, 32)])
def test_crop_of_one_file_is_torchvisions_on_pillow_and_the_batched_one_to_a_grey_value(height, width, size):
    """Pillow to Pillow exactly; against the batched crop 1.01, as Pillow rounds after each of its two passes."""
    pixels = noise(1, height, width, seed=3)
    image = Image.fromarray(pixels[0].permute(1, 2, 0).numpy())
    boxes = boxes_of(20, 1, height, width)
    flips = torch.arange(20) % 3 == 0
    batched = batched_resized_crop(pixels.repeat(20, 1, 1, 1), boxes, size, flips)
    for box, flip, close in zip(boxes.tolist(), flips.tolist(), batched, strict=True):
        crop = resized_crop_image(image, box, size, flip)
        assert crop.shape == (size, size, 3)
        assert crop.dtype == np.uint8
        expected = F.resized_crop(image, *box, [size, size])
        expected = F.horizontal_flip(expected) if flip else expected
        np.testing.assert_array_equal(crop, np.asarray(expected))
        assert np.abs(crop.transpose(2, 0, 1) - close.numpy()).max() <= 1.01
