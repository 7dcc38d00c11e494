"""Mean and standard deviation of each channel, measured on a sample of the images.

C: channels   H, W: height and width
"""

from __future__ import annotations

import numpy as np

from moco.data.base import Source
from moco.data.decode import DamagedImage
from moco.data.order import SHUFFLE, keyed_seed
from moco.errors import DataError
from moco.normalization import Channels

SAMPLE = 256  # images
LEAST = 1 / 255  # of a standard deviation: a channel that is one value everywhere is not spread beyond a grey level


def channel_statistics(source: Source, indices: np.ndarray, *, seed: int) -> tuple[Channels, Channels]:
    """Mean and standard deviation, for images in 0 to 1, over the pixels of SAMPLE images drawn from the seed.

    Every image counts alike, whatever its size; damaged ones are passed over.

    Raises:
        DataError: none of the sample can be read.
    """
    drawn = np.random.default_rng(keyed_seed(seed, SHUFFLE)).permutation(len(indices))[:SAMPLE]
    sums, squares, count = np.zeros(source.channels), np.zeros(source.channels), 0
    for index in indices[np.sort(drawn)].tolist():
        try:
            with source.reading(seed, index):
                pixels = source.pixels(index).reshape(-1, source.channels) / 255.0
        except DamagedImage:
            continue
        sums, squares, count = sums + pixels.mean(axis=0), squares + np.square(pixels).mean(axis=0), count + 1
    if not count:
        raise DataError(f"{source.name}: none of {len(drawn)} images can be read, so that nothing can be measured")
    mean = sums / count
    std = np.sqrt(np.maximum(squares / count - np.square(mean), LEAST**2))
    return tuple(mean.tolist()), tuple(std.tolist())
