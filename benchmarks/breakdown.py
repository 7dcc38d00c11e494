"""Where a step spends its time, part by part, each measured alone and one after the other."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from contestants import Setting, fixed_batch, make_loader, trained
from moco.contrast import info_nce
from moco.data.crop import batched_resized_crop, sample_crops
from moco.data.cut import resized_crop_pixels
from moco.data.loader import BATCHED_SIDE
from moco.data.plans import StepPlanner
from moco.data.views import BLOCK_PIXELS, photometric_views


def breakdown(setting: Setting, *, steps: int) -> dict[str, float]:
    """Median milliseconds of each part of a step; data parts on one thread, so that they add up to CPU time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    data = data_parts(setting, steps)
    torch.set_num_threads(threads)
    return {**data, **model_parts(setting, steps)}


def data_parts(setting: Setting, steps: int) -> dict[str, float]:
    """Decode, crop and colour one batch."""
    config, (loader, order) = setting.config, make_loader(setting, setting.data)
    numbers = order.batch(0)

    def decode() -> list[np.ndarray]:
        if loader.planner.array is not None:
            return [np.asarray(loader.planner.array[int(number)]) for number in numbers]
        return [loader.source.pixels(int(number), min_side=loader.planner.min_side) for number in numbers]

    size = config.image_size
    crops = torch.randint(0, 256, (2, config.batch_size, size, size, 3), dtype=torch.uint8, device=setting.device)
    generator = torch.Generator().manual_seed(0)
    timed = {
        "decode (one thread)": decode,
        "crop (one thread)": cropping(decode(), size, loader.planner),
        "photometric (one thread or GPU)": lambda: photometric_views(
            crops.permute(0, 1, 4, 2, 3), loader.planner.recipe, generator
        ),
    }
    return {name: milliseconds(function, steps, setting.device) for name, function in timed.items()}


def cropping(images: list[np.ndarray], size: int, planner: StepPlanner) -> Callable[[], None]:
    """Both views' crops of one batch, in the way that the loader takes on a CPU."""
    array, scale = planner.array, planner.recipe.crop_scale
    if array is None or max(array.shape[1:3]) > BATCHED_SIDE:
        cut = np.empty((size, size, 3), dtype=np.uint8)

        def one_by_one() -> None:
            for image in images:
                edge = min(image.shape[:2]) * 3 // 4
                for flip in (False, True):
                    resized_crop_pixels(image, (0, 0, edge, edge), flip, cut)

        return one_by_one
    blocks = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).split(max(1, BLOCK_PIXELS // size**2))

    def in_batches() -> None:
        for block in blocks:
            sides = [torch.full((2 * len(block),), side) for side in block.shape[2:]]
            boxes = sample_crops(*sides, scale=scale, generator=torch.Generator().manual_seed(0))
            batched_resized_crop(block, boxes, size, torch.arange(len(boxes)) % 2 == 0)

    return in_batches


def model_parts(setting: Setting, steps: int) -> dict[str, float]:
    """Encoders, loss, optimiser, momentum update, enqueue."""
    model, optimizer = trained(setting)
    x, device = fixed_batch(setting), setting.device
    q_NC, k_NC = model.query(x).detach().requires_grad_(), model.key(x)
    pull_NC = torch.randn_like(q_NC)
    forward: list[Any] = []

    def query() -> None:
        forward[:] = [model.query(x)]

    def loss() -> None:
        info_nce(q_NC, k_NC, model.queue.keys_KC, temperature=model.temperature).backward()

    result = {"query forward": milliseconds(query, steps, device)}
    result["query forward and backward"] = milliseconds(lambda: model.query(x).backward(pull_NC), steps, device)
    result["key forward"] = milliseconds(lambda: model.key(x), steps, device)
    result["loss and its gradient"] = milliseconds(loss, steps, device)
    result["optimiser"] = milliseconds(optimizer.step, steps, device)
    result["momentum update"] = milliseconds(model.update_key_encoder_, steps, device)
    result["enqueue"] = milliseconds(lambda: model.queue.enqueue(k_NC), steps, device)
    return result


def milliseconds(function: Callable[[], Any], steps: int, device: torch.device) -> float:
    """Median over `steps` calls, after one for warmth."""
    times = []
    for _ in range(steps + 1):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times[1:])
