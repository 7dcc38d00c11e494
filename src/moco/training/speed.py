"""How fast the encoder is here, in each of several ways: a few passes of each, by turns."""

from __future__ import annotations

import copy
import dataclasses
import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from moco.config import Config
from moco.training.encoder import memory_format
from moco.training.lanes import LANES, QUERY, LanedEncoder, Lanes, lane_groups, split_for_lanes

# Enough for a ratio on a CPU, in a few seconds: pixels in a batch, and fewest and most samples; more for lanes, whose
# cost is for each pass and not for each sample.
CPU_PIXELS, FEW_SAMPLES, MANY_SAMPLES = 16 * 64**2, 8, 32
LANE_PIXELS, FEW_LANE_SAMPLES = 64 * 64**2, 16
ROUNDS, SECONDS = 5, 2.5  # by turns, for as long as they take less than that
HOPELESS = 1.5  # times slower than the best: not asked again
Choice = dict[str, Any]  # precision, layout and compile, as in the configuration


def of_candidates(config: Config, encoder: nn.Module, device: torch.device, candidates: list[Choice]) -> list[float]:
    """Images per second of a query's forward and backward pass, by turns; the best round is the least disturbed."""
    count = config.batch_size_per_rank
    if device.type != "cuda":
        count = min(count, MANY_SAMPLES, max(FEW_SAMPLES, CPU_PIXELS // config.image_size**2))
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        trials = []
        for candidate in candidates:
            module = copy.deepcopy(encoder).train().to(device).to(memory_format=memory_format(candidate["layout"]))
            forward = torch.compile(module) if candidate["compile"] == "on" else module
            encode = functools.partial(_encode, forward, candidate["precision"])
            trials.append(_trial(module, encode, _images(config, count, candidate["layout"], device)))
        seconds = _by_turns(trials)
    return [count / min(times) for times in seconds]


def with_and_without_lanes(
    config: Config, encoder: nn.Module, device: torch.device, started: list[Lanes]
) -> list[float]:
    """Images per second of a query's forward and backward pass, whole batches and in lanes; the typical round.

    Lanes that the run can go on with are added to `started`.
    """
    whole = config.batch_size
    config = dataclasses.replace(config, batch_size=_lane_samples(config))
    count = config.batch_size
    lanes = Lanes(config, encoder)

    def encode(network: nn.Module, samples: Tensor) -> Tensor:
        return _encode(network, config.precision, samples)

    try:
        with torch.random.fork_rng(devices=[]):
            images = _images(config, count, config.layout, device)
            module = split_for_lanes(copy.deepcopy(encoder).train(), config)
            laned = LanedEncoder(module, encode, lanes, QUERY)
            seconds = _by_turns(
                [_trial(module, functools.partial(encode, module), images), _trial(module, laned, images)]
            )
    except BaseException:
        lanes.close()
        raise
    if count == whole:
        started.append(lanes)
    else:
        lanes.close()
    return [count / statistics.median(times) for times in seconds]


def _lane_samples(config: Config) -> int:
    """As much of the batch, by halves, as a measurement needs and falls into two lanes."""
    count = config.batch_size
    while count // 2 * config.image_size**2 >= LANE_PIXELS and count // 2 >= FEW_LANE_SAMPLES:
        groups = config.split_groups
        if count % (2 * LANES) or (groups and count // 2 < 2 * groups) or lane_groups(count // 2, groups) is None:
            break
        count //= 2
    return count


def _images(config: Config, count: int, layout: str, device: torch.device) -> Tensor:
    images = torch.randn(count, 3, config.image_size, config.image_size, device=device)
    return images.contiguous(memory_format=memory_format(layout))


def _encode(network: Callable[[Tensor], Tensor], precision: str, images: Tensor) -> Tensor:
    with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
        return network(images)


def _by_turns(trials: list[Callable[[], float]]) -> list[list[float]]:
    """Seconds of each trial, in rounds after a first one that does not count."""
    for trial in trials:
        trial()
    start = time.perf_counter()
    seconds = [[trial()] for trial in trials]
    for _ in range(ROUNDS - 1):
        if time.perf_counter() - start > SECONDS:
            break
        best = min(map(min, seconds))
        for trial, times in zip(trials, seconds, strict=True):
            if min(times) < HOPELESS * best:
                times.append(trial())
    return seconds


def _trial(module: nn.Module, encode: Callable[[Tensor], Tensor], images: Tensor) -> Callable[[], float]:
    """A function that makes one step and tells how many seconds it took."""

    def step() -> float:
        _wait(images.device)
        start = time.perf_counter()
        torch.autograd.backward(encode(images).float().square().mean())
        module.zero_grad()
        _wait(images.device)
        return time.perf_counter() - start

    return step


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
