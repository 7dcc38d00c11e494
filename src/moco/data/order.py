"""Which images come in which step, and random numbers by key: pure functions of seed and step, so that a resumed run
continues exactly."""

from __future__ import annotations

import contextlib
import itertools
import random
from collections.abc import Generator, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Sampler

# Purposes keep the streams of one seed apart.
SHUFFLE, VIEWS, COLORS, MODEL, ITEMS, CROPS, SMALL_VIEWS, SMALL_COLORS = range(8)


def keyed_seed(seed: int, purpose: int, *counters: int) -> int:
    """A 63-bit seed for one use: equal arguments give equal seeds, different ones unrelated seeds."""
    # Two words for each part, and their number first: otherwise (1, 0) would be (1, 0, 0) to NumPy.
    words = [word for part in (seed, purpose, *counters) for word in divmod(part, 2**32)]
    state = np.random.SeedSequence([len(words), *words]).generate_state(1, np.uint64)[0]
    return int(state >> np.uint64(1))


def keyed_generator(seed: int, purpose: int, *counters: int) -> torch.Generator:
    """A CPU generator for one use."""
    return torch.Generator().manual_seed(keyed_seed(seed, purpose, *counters))


@contextlib.contextmanager
def seeded(seed: int) -> Generator[None]:
    """Inside, the global CPU generators of PyTorch, NumPy and Python start from the seed; after it they are as before.

    For code of the user's, which draws from them.
    """
    torch_state, numpy_state, python_state = torch.get_rng_state(), np.random.get_state(), random.getstate()
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the GPUs' generators too
    np.random.seed(seed % 2**32)
    random.seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(torch_state)
        np.random.set_state(numpy_state)
        random.setstate(python_state)


class Sample(NamedTuple):
    """One place of one step: what its random numbers are keyed by, and the index of its image in the source."""

    step: int
    position: int
    image: int


class EpochOrder(Sampler[list[Sample]]):
    """Batches without end: a new random order of all images at each epoch; the last partial batch is dropped.

    Args:
        indices: the images to visit, as indices into a source.
        batch_size: samples in a step over all ranks.
        seed: decides every epoch's order.
        rank, world_size: whose share of each batch.

    Attributes:
        first_step: the step with which an iteration begins; the whole state of this sampler.
    """

    def __init__(self, indices: np.ndarray, *, batch_size: int, seed: int, rank: int = 0, world_size: int = 1) -> None:
        self.indices, self.batch_size, self.seed = indices, batch_size, seed
        self.rank, self.world_size, self.first_step = rank, world_size, 0
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)

    @property
    def steps_per_epoch(self) -> int:
        """Full batches in a pass over the images."""
        return len(self.indices) // self.batch_size

    def __iter__(self) -> Iterator[list[Sample]]:
        return map(self.batch, itertools.count(self.first_step))

    def batch(self, step: int) -> list[Sample]:
        """This rank's share of a step, batch_size / world_size samples; positions count over all ranks."""
        epoch, number = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            generator = keyed_generator(self.seed, SHUFFLE, epoch)
            self._order = torch.randperm(len(self.indices), generator=generator).numpy()
            self._epoch = epoch
        share = self.batch_size // self.world_size
        places = range(self.rank * share, (self.rank + 1) * share)
        start = number * self.batch_size
        return [Sample(step, place, int(self.indices[self._order[start + place]])) for place in places]
