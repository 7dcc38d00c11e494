"""Repeat-factor sampling (Gupta et al., 1908.03195, appendix): images with rare categories come more often.

r(c) = max(1, sqrt(t / f(c))), where f(c) is the share of images that hold category c; r(i) = max of r(c) over the
categories of image i. In each pass image i comes floor(r(i)) times, and once more with probability r(i) - floor(r(i)).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import Sampler

from moco.data.order import ITEMS, SHUFFLE, Sample, keyed_generator
from moco.errors import ConfigError

THRESHOLD = 1e-3  # t of LVIS


def repeat_factors(categories: Sequence[Iterable[int]], *, threshold: float = THRESHOLD) -> np.ndarray:
    """r(i) of each image, at least 1.

    Args:
        categories: of each image's objects, repeated or not; an image without any has factor 1.
        threshold: t, the share of images below which a category counts as rare, in (0, 1].

    Raises:
        ConfigError: a threshold out of its range.
    """
    if not 0 < threshold <= 1:
        raise ConfigError(f"repeat threshold {threshold}: expected a share of the images above 0 and at most 1")
    held = [np.unique(np.fromiter(each, dtype=np.int64)) for each in categories]
    counts = np.bincount(np.concatenate([*held, np.empty(0, np.int64)]))
    with np.errstate(divide="ignore"):
        factors = np.maximum(1.0, np.sqrt(threshold * len(held) / counts))
    return np.array([factors[each].max(initial=1.0) for each in held])


class RepeatedOrder(Sampler[list[Sample]]):
    """Batches without end, as `moco.data.order.EpochOrder` makes them, of images that are repeated by their factors.

    Each pass draws anew how often an image comes and shuffles them; what is left of a pass after its last whole batch
    begins the next one's first batch. Every batch follows from the seed and its number; a resumed iteration walks
    through the sizes of the passes before.

    Args:
        factors: r(i) of each image.
        batch_size: samples in a step over all ranks.
        seed: decides every pass.
        rank, world_size: whose share of each batch.

    Attributes:
        first_step: the step with which an iteration begins.
    """

    def __init__(self, factors: np.ndarray, *, batch_size: int, seed: int, rank: int = 0, world_size: int = 1) -> None:
        self.factors = torch.from_numpy(np.asarray(factors, dtype=np.float64))
        self.batch_size, self.seed, self.first_step = batch_size, seed, 0
        self.rank, self.world_size = rank, world_size

    def __iter__(self) -> Iterator[list[Sample]]:
        images = self._images(self.first_step * self.batch_size)
        share, step = self.batch_size // self.world_size, self.first_step
        while True:
            batch = [next(images) for _ in range(self.batch_size)]
            places = range(self.rank * share, (self.rank + 1) * share)
            yield [Sample(step, place, batch[place]) for place in places]
            step += 1

    def _images(self, skipped: int) -> Iterator[int]:
        """Images in order, without the first so many."""
        number = 0
        while True:
            times = self._times(number)
            length = int(times.sum())
            if skipped < length:
                order = torch.randperm(length, generator=keyed_generator(self.seed, SHUFFLE, number))
                repeated = torch.repeat_interleave(torch.arange(len(times)), times)
                yield from repeated[order[skipped:]].tolist()
            skipped = max(0, skipped - length)
            number += 1

    def _times(self, number: int) -> torch.Tensor:
        """How often each image comes in a pass."""
        drawn = torch.rand(len(self.factors), dtype=torch.float64, generator=keyed_generator(self.seed, ITEMS, number))
        whole = self.factors.floor()
        return (whole + (drawn < self.factors - whole)).long()
