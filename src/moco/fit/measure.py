"""What a step and an evaluation of a run take on this machine, from a few of them that leave no trace."""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import torch

from moco.config import Config
from moco.data.decode import DamagedImage
from moco.data.preprocess import centre_pixels
from moco.data.skipped import SkippedFiles
from moco.data.workers import default_workers
from moco.evaluation.features import extract_features
from moco.evaluation.knn import PIXELS_BLOCK, PIXELS_SIDE
from moco.evaluation.monitor import CURVE_BANK, CURVE_QUERIES, QUERIES
from moco.sizes import Size, height_width
from moco.training import loop
from moco.training.checkpoint import Position
from moco.training.device import convolutions_tried, make_fabric, peak_memory_bytes, place
from moco.training.mechanism import bank_rows, build_model
from moco.training.optimizer import make_optimizer
from moco.training.pretrain import Pretraining
from moco.training.stop import StopRequest

PASS = 4  # batches of images that the steps are made of, again and again: the first pass decodes them
LEAST_STEPS, MOST_STEPS = 2, 60
VERY_SLOW = 8.0  # seconds of a first step after which there is no second
PART = 32  # samples of the first, smaller steps, which say whether whole ones can be afforded
_FEW, _SOME = 8, 128  # images of an evaluation that is timed
_SLOW = 0.02  # seconds an image, from which few must do


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """Seconds and bytes.

    Attributes:
        step: a step once images have been decoded.
        decoding: what the first visit of an image adds.
        evaluation: features of an image.
        reading: an image of the monitor, read once.
        memory: at most, of the run.
    """

    step: float
    decoding: float
    evaluation: float
    reading: float
    memory: int


def measure(run: Pretraining, seconds: float) -> Measured:
    """Do a few steps of the run on copies of its encoder, for about so many seconds; nothing of the run changes."""
    config = run.config
    share = config.batch_size_per_rank
    alone = {"devices": 1, "num_nodes": 1}
    if config.batchnorm == "shuffle":
        alone["batchnorm"] = "auto"  # type: ignore[assignment]
    deadline = time.monotonic() + seconds
    part = max(PART, 2 * (config.split_groups or 1)) if config.chunk_size is None else 2 * config.chunk_size
    rehearsed = dataclasses.replace(config, **alone, batch_size=min(part, share))  # type: ignore[arg-type]
    device = make_fabric(rehearsed).device
    gpus = [device] if device.type == "cuda" else []
    with StopRequest(patient=False), convolutions_tried(), torch.random.fork_rng(devices=gpus):
        before = peak_memory_bytes(device)
        step, decoding = _steps(run, rehearsed, time.monotonic() + seconds / 3)
        smaller = _share_of_full_steps(run, rehearsed, step, seconds / 3)
        memory = peak_memory_bytes(device)
        if share > part:
            whole = step * share / part
            if LEAST_STEPS * whole > seconds:  # what a batch takes is proportional to its samples, but for little
                step, memory = whole, before + _grown(memory - before, share, part, config)
            else:
                whole_batch = dataclasses.replace(rehearsed, batch_size=share)
                step, decoding = _steps(run, whole_batch, deadline)
                memory = peak_memory_bytes(device)
        step *= smaller
        evaluation, reading = _evaluation(run, device)
    return Measured(step=step, decoding=decoding, evaluation=evaluation, reading=reading, memory=int(memory))


def _grown(memory: int, share: int, part: int, config: Config) -> int:
    """What a step of so many samples takes, where a part of them takes `memory`; in chunks only views grow."""
    if config.chunk_size is None:
        return memory * share // part
    return memory + (share - part) * 2 * 4 * (config.channels or 3) * math.prod(height_width(config.image_size))


def evaluated(run: Pretraining) -> tuple[int, int]:
    """Images of an evaluation while training, and of those before and after it, without the limit of knn_images."""
    images = run.images
    if images.test is None or images.held_out is None:
        return 0, 0
    labels, asked_labels = images.source.labels, images.test.labels
    assert labels is not None
    assert asked_labels is not None
    known, asked = int((labels[images.pretraining] >= 0).sum()), int((asked_labels[images.held_out] >= 0).sum())
    most = run.config.knn_images
    asked = min(asked, max(1, int(QUERIES * most), most - known))
    return min(CURVE_BANK, known) + min(CURVE_QUERIES, asked), known + asked


def evaluation_bytes(run: Pretraining) -> int:
    """Memory that the kNN figures before training take on a CPU: the images in 8 bits, their raw pixels three times (in
    blocks, whole, normalised), and a block of them in fp32."""
    channels = run.images.source.channels
    images = min(evaluated(run)[1], run.config.knn_images)
    each = channels * math.prod(height_width(run.config.image_size))
    return images * (each + 3 * 4 * channels * PIXELS_SIDE**2) + 4 * min(images, PIXELS_BLOCK) * each


def _steps(run: Pretraining, config: Config, deadline: float, size: Size | None = None) -> tuple[float, float]:
    """Seconds of a step, of views of `size` or the final one, and what the first visit of an image adds to them."""
    times, batch = _timed(run, config, deadline, size or config.image_size), config.batch_size
    first, later = times[1:PASS], times[PASS:]  # the very first step makes buffers
    if len(later) < LEAST_STEPS:
        return float(np.mean(times[1:] or times)), 0.0
    step = float(np.mean(later))
    return step, max(0.0, float(np.mean(first)) - step) / batch


def _share_of_full_steps(run: Pretraining, config: Config, full: float, seconds: float) -> float:
    """Mean time of the run's steps, as a share of `full`, that of a step at the final size; 1 without smaller views."""
    stages = config.sizes.stages
    taken = [_steps(run, config, time.monotonic() + seconds / len(stages), size)[0] for size, _ in stages]
    return 1.0 - sum(part * (1.0 - each / full) for (_, part), each in zip(stages, taken, strict=True))


def _timed(run: Pretraining, config: Config, deadline: float, size: Size) -> list[float]:
    """Seconds of each of some steps, waiting for views included."""
    training = rehearsal(run, config, size, images=PASS * config.batch_size)
    with closing(training.batches(0)) as batches:
        return list(_laps(training, batches, deadline))


def rehearsal(run: Pretraining, config: Config, size: Size, *, images: int, step: int = 0) -> loop.Training:
    """A training of a copy of the run's encoder on its first images, with views of `size`, that writes nothing."""
    fabric, few = make_fabric(config), run.images.pretraining[:images]
    device = fabric.device
    model = build_model(copy.deepcopy(run.encoder), config, images=len(run.images.pretraining))
    place(model, fabric, config)
    model.train()
    loader, order = run.views.loader(fabric, SkippedFiles(), indices=few, batch_size=config.batch_size, size=size)
    rows = bank_rows(run.images.pretraining, config)
    position = Position(step=step)
    position.loss_sum, position.accuracy_sum = position.loss_sum.to(device), position.accuracy_sum.to(device)
    return loop.Training(
        config=config,
        fabric=fabric,
        model=model,
        optimizer=make_optimizer(model, config),
        batches=loader.batches,
        bank_rows=None if rows is None else rows.to(device),
        steps_per_epoch=order.steps_per_epoch,
        evaluate=None,
        checkpoint=Path(),
        folder=None,
        position=position,
    )


def _laps(training: loop.Training, batches: Iterator[loop.Batch], deadline: float) -> Iterator[float]:
    started = time.monotonic()
    for number in range(MOST_STEPS):
        now = time.monotonic()
        if now > deadline and (number >= LEAST_STEPS or (number and now - started > VERY_SLOW)):
            return
        began = time.perf_counter()
        loop.one_step(training, next(batches))
        if training.fabric.device.type == "cuda":
            torch.cuda.synchronize(training.fabric.device)
        yield time.perf_counter() - began


def _evaluation(run: Pretraining, device: torch.device) -> tuple[float, float]:
    """Seconds of an image's features, and of reading an image; 0 where nothing is evaluated."""
    if not evaluated(run)[1]:
        return 0.0, 0.0
    size, channels = run.config.image_size, run.images.source.channels
    backbone = copy.deepcopy(run.encoder.backbone).to(device)
    each = 0.0
    for count in (_FEW, _FEW, _SOME):
        if count == _SOME and each > _SLOW:
            break
        batch = torch.randn(count, channels, *height_width(size)).contiguous(memory_format=torch.channels_last)
        began = time.perf_counter()
        extract_features(backbone, [batch], bf16=run.config.precision == "bf16")
        each = (time.perf_counter() - began) / count
    return each, _reading(run)


def _reading(run: Pretraining) -> float:
    source, size = run.images.source, run.config.image_size
    sample = [int(index) for index in run.images.pretraining[:PART]]
    began = time.perf_counter()
    for index in sample:
        try:
            with source.reading(0, 0, index):
                centre_pixels(source.pixels(index), size=size)
        except DamagedImage:
            continue
    return (time.perf_counter() - began) / len(sample) / default_workers()
