"""How evaluation cuts images: the centre square, the papers' test crop, and the random crops of supervised training."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image

from moco.data.crop import resized_crop_image, sample_crops
from moco.data.order import keyed_generator
from moco.data.preprocess import centre_pixels
from moco.data.readable import Cut, ReadableImages

CROPS = 5  # purpose of the seed, see `moco.data.order`
PAPER_SCALE = (0.08, 1.0)  # torchvision's RandomResizedCrop, which the authors' linear probe uses as it comes
RESIZE = 256 / 224  # of the papers' test crop: shorter side to this multiple of the crop


def centre_cut(image: Image.Image, size: int) -> np.ndarray:
    """The largest centred square at size x size, as a run's monitor and `moco embed` see the image."""
    return centre_pixels(image, size)


def paper_test_cut(image: Image.Image, size: int) -> np.ndarray:
    """Shorter side to 256/224 of `size`, bilinear with antialiasing, then the centred square of `size` pixels."""
    short = round(RESIZE * size)
    scale = short / min(image.height, image.width)
    height, width = max(short, int(image.height * scale)), max(short, int(image.width * scale))
    top, left = round((height - size) / 2), round((width - size) / 2)
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized.crop((left, top, left + size, top + size)))


def fixed_batches(images: ReadableImages, cut: Cut, *, batch_size: int) -> Iterator[np.ndarray]:
    """All images in order, cut in the same way, (n, S, S, 3) uint8."""
    jobs = (
        [(position, cut) for position in range(start, min(start + batch_size, len(images)))]
        for start in range(0, len(images), batch_size)
    )
    return images.cut(jobs)


def random_batches(
    images: ReadableImages, *, size: int, scale: tuple[float, float], batch_size: int, seed: int, epoch: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """One pass in random order: random resized crops mirrored with probability 1/2, and the images' positions.

    The last batch holds what is left; a single image left over joins the batch before it, for BatchNorm's sake. Order,
    crops and flips follow from seed and epoch.
    """
    generator = keyed_generator(seed, CROPS, epoch)
    order = torch.randperm(len(images), generator=generator).numpy()
    ends = list(range(batch_size, len(order) - 1, batch_size))
    parts = np.split(order, ends)
    jobs = (_random_job(images, part, size, scale, generator) for part in parts)
    yield from zip(images.cut(jobs), parts, strict=True)


def _random_job(
    images: ReadableImages, positions: np.ndarray, size: int, scale: tuple[float, float], generator: torch.Generator
) -> list[tuple[int, Cut]]:
    heights, widths = torch.from_numpy(images.sizes[positions]).T
    boxes = sample_crops(heights, widths, scale=scale, generator=generator).tolist()
    flips = (torch.rand(len(boxes), generator=generator) < 0.5).tolist()
    return [
        (int(position), functools.partial(resized_crop_image, box=box, size=size, flip=flip))
        for position, box, flip in zip(positions, boxes, flips, strict=True)
    ]


def batches_in_pass(count: int, batch_size: int) -> int:
    """How many batches `random_batches` makes of `count` images."""
    return 1 + len(range(batch_size, count - 1, batch_size))
