"""From a source of images to the two views of each step, on the device.

Arrays of one size are cropped in batches on the device. Files are decoded once by threads (Pillow releases the
interpreter lock), both views are cropped from that decode, and the pixels stay uint8 until the device, where the
photometric operations run in batches. Memory holds a few batches, never the folder.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import Empty, Full, Queue
from threading import Event, Thread
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from moco.data.crop import resized_crop_image, sample_crops
from moco.data.order import PHOTOMETRIC, SHUFFLE, VIEWS, EpochOrder, keyed_generator
from moco.data.skipped import SkippedFiles
from moco.data.source import DamagedImage, Source
from moco.data.views import ViewRecipe, photometric_views, two_views
from moco.errors import DataError

Views = tuple[Tensor, Tensor]
PREFETCH = 3  # batches decoded ahead: enough to cover a slow disk, little memory
ATTEMPTS = 100  # damaged images replaced in a row before giving up


class ViewLoader:
    """Two views of each image of each step.

    Args:
        source: the images.
        order: which of them come in which step.
        recipe: crop and photometric operations.
        image_size: side of a view in pixels.
        device: where the views are wanted.
        workers: threads that decode and crop files; None means the number of cores, at most 16.
        rank, world_size: this process's share.
        skipped: collects damaged files. The place of a damaged image is taken by another one, drawn from the seed.
    """

    def __init__(
        self,
        source: Source,
        order: EpochOrder,
        recipe: ViewRecipe,
        *,
        image_size: int,
        device: torch.device,
        skipped: SkippedFiles,
        workers: int | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.source, self.order, self.recipe = source, order, recipe
        self.image_size, self.device, self.skipped = image_size, device, skipped
        self.workers = workers or min(16, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 4)
        self.rank, self.world_size = rank, world_size
        self.array = source.uniform_array()
        # The smallest crop of an image decoded at this size still has as many pixels as the view.
        self.min_side = math.ceil(image_size / recipe.crop_scale[0] ** 0.5)

    def batches(self, first_step: int) -> Iterator[Views]:
        """The views of step `first_step` and of each later one, without end; close the iterator to free threads."""
        return self._resident(first_step) if self.array is not None else self._streaming(first_step)

    def _generator(self, purpose: int, step: int) -> torch.Generator:
        return keyed_generator(self.order.seed, purpose, step, self.rank)

    def _indices(self, step: int) -> np.ndarray:
        return self.order.batch(step, rank=self.rank, world_size=self.world_size)

    def _resident(self, first_step: int) -> Iterator[Views]:
        assert self.array is not None
        step = first_step
        while True:
            rows = np.ascontiguousarray(self.array[self._indices(step)])
            images = torch.from_numpy(rows).to(self.device, non_blocking=True).permute(0, 3, 1, 2)
            yield two_views(images, self.recipe, self.image_size, self._generator(VIEWS, step))
            step += 1

    def _streaming(self, first_step: int) -> Iterator[Views]:
        ready: Queue[Any] = Queue(maxsize=PREFETCH)
        stop = Event()
        producer = Thread(target=self._produce, args=(first_step, ready, stop), daemon=True, name="moco-decode")
        producer.start()
        try:
            step = first_step
            while True:
                crops = ready.get()
                if isinstance(crops, BaseException):
                    raise crops
                generator = self._generator(PHOTOMETRIC, step)
                images = torch.from_numpy(crops)
                if self.device.type == "cuda":
                    images = images.pin_memory()
                images = images.to(self.device, non_blocking=True).permute(0, 1, 4, 2, 3)
                yield photometric_views(images, self.recipe, generator)
                step += 1
        finally:
            stop.set()
            while producer.is_alive():  # the producer may be blocked on a full queue
                _drain(ready)
                producer.join(timeout=0.05)

    def _produce(self, first_step: int, ready: Queue[Any], stop: Event) -> None:
        """Decode ahead until told to stop; an exception travels to the consumer."""
        step = first_step
        try:
            with ThreadPoolExecutor(self.workers, thread_name_prefix="moco-decode") as pool:
                while not stop.is_set():
                    _put(ready, self._crops(step, pool), stop)
                    step += 1
        except BaseException as error:
            _put(ready, error, stop)

    def _crops(self, step: int, pool: ThreadPoolExecutor) -> np.ndarray:
        """Both views' crops of one step, (2, N, size, size, 3) uint8."""
        indices = self._indices(step)
        images = list(pool.map(self._load, indices, [step] * len(indices)))
        generator = self._generator(VIEWS, step)
        heights = torch.tensor([image.height for image in images] * 2)
        widths = torch.tensor([image.width for image in images] * 2)
        boxes = sample_crops(heights, widths, scale=self.recipe.crop_scale, generator=generator).tolist()
        flips = (torch.rand(len(boxes), generator=generator) < self.recipe.flip_probability).tolist()
        out = np.empty((2, len(images), self.image_size, self.image_size, 3), dtype=np.uint8)

        def cut(position: int) -> None:
            for view in (0, 1):
                at = view * len(images) + position
                out[view, position] = resized_crop_image(images[position], boxes[at], self.image_size, flips[at])

        list(pool.map(cut, range(len(images))))
        return out

    def _load(self, index: int, step: int) -> Image.Image:
        """The image, or the next readable one of a sequence that depends on nothing but seed, step and index."""
        candidate = int(index)
        replacements = None
        for _ in range(ATTEMPTS):
            try:
                return self.source.image(candidate, min_side=self.min_side)
            except DamagedImage as error:
                self.skipped.add(self.source.item_name(candidate), str(error))
            if replacements is None:
                replacements = keyed_generator(self.order.seed, SHUFFLE, step, int(index))
            draw = int(torch.randint(len(self.order.indices), (1,), generator=replacements))
            candidate = int(self.order.indices[draw])
        raise DataError(
            f"{ATTEMPTS} images in a row cannot be read, the last is {self.source.item_name(candidate)}: "
            "check the folder"
        )


def _put(ready: Queue[Any], item: Any, stop: Event) -> None:
    while not stop.is_set():
        try:
            ready.put(item, timeout=0.1)
            return
        except Full:
            continue


def _drain(ready: Queue[Any]) -> None:
    try:
        while True:
            ready.get_nowait()
    except Empty:
        return
