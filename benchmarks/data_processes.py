"""The loader's work in processes instead of threads, as one of the ways that `data_path.py` compares."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context, shared_memory

import numpy as np
import torch

from moco.data.cut import BoxDraws, resized_crop_pixels
from moco.data.decode import read_pixels
from moco.data.folder import FolderSource
from moco.data.order import EpochOrder


def in_processes(
    source: FolderSource, options: argparse.Namespace
) -> tuple[Callable[[int], None], Callable[[], float]]:
    """Worker processes with the same tasks as the loader's threads; both views' crops come back in shared memory.

    Returns a function that does a number of batches, 0 to end, and one that tells the CPU seconds spent so far.
    """
    order = EpochOrder(np.arange(len(source)), batch_size=options.batch_size, seed=0)
    memory = shared_memory.SharedMemory(create=True, size=options.batch_size * 2 * 3 * options.image_size**2)
    pool = ProcessPoolExecutor(options.workers, mp_context=get_context("spawn"))
    spent, step = [0.0], [0]

    def run(number: int) -> None:
        for _ in range(number):
            names = [str(source.path(int(index))) for index in order.batch(step[0])]
            parts = [(names[at : at + 8], at, memory.name, options.image_size) for at in range(0, len(names), 8)]
            spent[0] += sum(pool.map(crop_files, parts))
            np.frombuffer(memory.buf, dtype=np.uint8).copy()
            step[0] += 1
        if not number:
            pool.shutdown()
            memory.close()
            memory.unlink()

    return run, lambda: spent[0] + time.process_time()


def crop_files(part: tuple[list[str], int, str, int]) -> float:
    """Two crops of each file, at its place in the shared memory; the CPU seconds that they took."""
    names, at, name, side = part
    torch.set_num_threads(1)
    start = time.process_time()
    memory = attached(name)
    out = np.ndarray((len(memory.buf) // (6 * side * side), 2, side, side, 3), dtype=np.uint8, buffer=memory.buf)
    boxes = BoxDraws(2 * len(names), scale=(0.2, 1.0), generator=torch.Generator().manual_seed(at))
    for position, file in enumerate(names):
        pixels = read_pixels(file)
        for view in (0, 1):
            box = boxes.box(2 * position + view, *pixels.shape[:2])
            resized_crop_pixels(pixels, box, bool(view), out[at + position, view])
    return time.process_time() - start


ATTACHED: dict[str, shared_memory.SharedMemory] = {}


def attached(name: str) -> shared_memory.SharedMemory:
    """The shared memory, opened once."""
    if name not in ATTACHED:
        ATTACHED[name] = shared_memory.SharedMemory(name=name)
    return ATTACHED[name]
