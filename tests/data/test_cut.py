"""Boxes drawn before sizes are known are those of `sample_crops`; uint8 resampling is Pillow's."""

import threading

import numpy as np
import pytest
import torch
from moco.data.cut import SERIAL, BoxDraws, resized_crop_pixels
from PIL import Image

from moco.data.crop import resized_crop_image, sample_crops

SIZES = [(375, 500), (32, 32), (40, 1000), (1000, 40), (3, 2), (1, 1), (224, 225)]


@pytest.mark.parametrize("scale", [(0.2, 1.0), (0.08, 0.5), (1.0, 1.0)])
@pytest.mark.parametrize("size", SIZES)
def test_boxes_are_those_of_the_batched_sampler(size, scale):
    """The same draws give the same boxes; rounding may differ in one of ten thousand."""
    count = 400
    draws = BoxDraws(count, scale=scale, generator=torch.Generator().manual_seed(5))
    boxes = torch.tensor([draws.box(number, *size) for number in range(count)])
    heights, widths = (torch.full((count,), side) for side in size)
    expected = sample_crops(heights, widths, scale=scale, generator=torch.Generator().manual_seed(5))
    assert (boxes == expected).all(dim=1).float().mean() > 0.99
    assert (boxes - expected).abs().max() <= 1


def test_each_size_gets_a_box_inside():
    draws = BoxDraws(50, scale=(0.08, 1.0), generator=torch.Generator().manual_seed(0))
    for number in range(50):
        for height, width in SIZES:
            top, left, box_height, box_width = draws.box(number, height, width)
            assert 0 <= top <= top + box_height <= height
            assert 0 <= left <= left + box_width <= width
            assert min(box_height, box_width) > 0


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(("box", "size"), [((3, 5, 90, 70), 32), ((0, 0, 120, 160), 224), ((50, 60, 7, 9), 64)])
def test_resampling_is_pillows(box, size, flip):
    """To one level of 255, reducing and enlarging; 224 px is mirrored in several pieces."""
    smooth = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    image = Image.fromarray(smooth).resize((160, 120), Image.Resampling.BICUBIC)
    out = np.empty((size, size, 3), dtype=np.uint8)
    pixels = np.asarray(image)
    assert not pixels.flags.writeable  # as Pillow and memory maps give them
    resized_crop_pixels(pixels, box, flip, out)
    expected = resized_crop_image(image, box, size, flip)
    assert np.abs(out.astype(int) - expected.astype(int)).max() <= 1
    other = resized_crop_image(image, box, size, not flip)
    assert np.abs(out.astype(int) - other.astype(int)).max() > 20
    assert 3 * 64 * 64 < SERIAL < 3 * 224 * 224


def test_workers_start_no_teams_of_threads():
    """With two PyTorch threads, a crop in a worker leaves no third one behind."""
    tasks = "/proc/self/task"
    try:
        import os

        before = len(os.listdir(tasks))
    except OSError:
        pytest.skip("no /proc")
    pixels, out = np.zeros((600, 600, 3), dtype=np.uint8), np.empty((224, 224, 3), dtype=np.uint8)
    threads = torch.get_num_threads()
    seen = []

    def work():
        resized_crop_pixels(pixels, (0, 0, 600, 600), True, out)
        seen.append(len(os.listdir(tasks)))

    torch.set_num_threads(2)
    try:
        worker = threading.Thread(target=work)
        worker.start()
        worker.join()
    finally:
        torch.set_num_threads(threads)
    assert seen[0] <= before + 1
