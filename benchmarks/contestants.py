"""What the throughput benchmark races: each contestant gives a step function and a function that frees its threads."""

from __future__ import annotations

import argparse
import copy
import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import moco
from moco import hardware
from moco.config import Config
from moco.contrast import moco_step
from moco.data.loader import ViewLoader
from moco.data.order import EpochOrder
from moco.data.skipped import SkippedFiles
from moco.data.source import Source
from moco.mechanisms import build_model
from moco.recipes import configure
from moco.training import loop
from moco.training.encoder import build_checked_encoder
from moco.training.engine import make_fabric, place
from moco.training.execution import choose
from moco.training.optimizer import make_optimizer
from moco.training.small_maps import SmallMapConv2d
from moco.workload import open_workload, view_recipe

Step = Callable[[], float]  # one step; returns the seconds that it waited for data
Contestant = Callable[[], tuple[Step, Callable[[], None]]]
RESIDENT_BYTES = 8 * 2**30
THREADS = "folder, threads"


@dataclasses.dataclass(frozen=True)
class Setting:
    """What all contestants share.

    Attributes:
        config: with precision, layout and compilation chosen.
        fabric: device and precision.
        data: folder of JPEG files, or an .npz file of arrays.
        pack: the same images as a pack of JPEG records; None for arrays, and where nobody reads it.
    """

    config: Config
    fabric: Any
    data: Path
    pack: Path | None

    @property
    def device(self) -> torch.device:
        """Where the encoders are."""
        return self.fabric.device


def make_setting(data: Path, scratch: Path, options: argparse.Namespace) -> Setting:
    """Choose the execution as `moco pretrain` does, and pack the images."""
    config = configure(
        options.recipe,
        {
            "backbone": options.backbone,
            "image_size": options.image_size,
            "stem": options.stem,
            "batch_size": options.batch_size,
            "dictionary_size": options.dictionary_size,
            "color": options.color,
            "compile": options.compile,
            "lanes": options.lanes,
            "knn_evaluations": 0,
            "steps": 10**6,
        },
    )
    config = choose(config, build_checked_encoder(config), total_steps=10**6).config
    pack = None
    if data.is_dir() and (options.only is None or "packed" in options.only):
        pack = moco.pack(data, out=scratch / "pack", short_side=0, quiet=True).path
    return Setting(config, make_fabric(config), data, pack)


def contestants(setting: Setting, only: list[str] | None) -> dict[str, Contestant]:
    """All of them by name, or those asked for, of those that there can be."""
    model, data = trained(setting), setting.data
    makers: dict[str, Callable[[], Contestant | None]] = {
        "bare": lambda: bare(setting),
        "step": lambda: fixed_step(setting, model),
        "resident": lambda: whole_loop(setting, model, data, cache_bytes=RESIDENT_BYTES),
        "resident views": lambda: views_alone(setting, data, cache_bytes=RESIDENT_BYTES),
    }
    if data.is_dir():
        makers |= {
            "folder": lambda: whole_loop(setting, model, data),
            "folder views": lambda: views_alone(setting, data),
            THREADS: lambda: whole_loop(setting, model, data, processes=False),
            "packed": lambda: whole_loop(setting, model, setting.pack) if setting.pack else None,
            "lightly": lambda: lightly_example(setting),
        }
    usual = [name for name in makers if name != THREADS or setting.device.type == "cuda"]
    made = {name: makers[name]() for name in (usual if only is None else makers.keys() & only)}
    return {name: runner for name in makers if (runner := made.get(name)) is not None}


def trained(setting: Setting) -> Any:
    """Model and optimiser, placed."""
    model = build_model(build_checked_encoder(setting.config), setting.config, images=setting.config.batch_size)
    place(model, setting.fabric, setting.config)
    return model, make_optimizer(model.train(), setting.config)


def bare(setting: Setting) -> Contestant:
    """Query forward and backward, key forward, optimiser; PyTorch's own layers, plain BatchNorm, no dictionary."""
    layout = torch.channels_last if setting.config.layout == "channels_last" else torch.contiguous_format
    encoder_q = build_checked_encoder(setting.config).to(setting.device, memory_format=layout)
    for layer in encoder_q.modules():
        if isinstance(layer, SmallMapConv2d):
            layer.__class__ = torch.nn.Conv2d
    encoder_k = copy.deepcopy(encoder_q).requires_grad_(False)
    optimizer = torch.optim.SGD(encoder_q.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4, fused=True)
    query, key = encoder_q, encoder_k
    if setting.config.compile == "on":
        query, key = torch.compile(encoder_q, dynamic=False), torch.compile(encoder_k, dynamic=False)
    x = fixed_batch(setting).contiguous(memory_format=layout)

    def step() -> float:
        with setting.fabric.autocast():
            q = query(x)
            with torch.no_grad():
                key(x)
        optimizer.zero_grad()
        setting.fabric.backward(q.float().square().mean())
        optimizer.step()
        return 0.0

    return lambda: (step, lambda: None)


def fixed_step(setting: Setting, trained_model: Any) -> Contestant:
    """The algorithm on a fixed batch."""
    model, optimizer = trained_model
    x = fixed_batch(setting)

    def step() -> float:
        moco_step(model, x, x, optimizer, backward=setting.fabric.backward)
        return 0.0

    return lambda: (step, lambda: None)


def make_loader(
    setting: Setting, data: Source | Path, cache_bytes: int = 0, *, processes: bool = True
) -> tuple[ViewLoader, EpochOrder]:
    """The command's own loader; without `processes` that of a run whose images are a user's own class."""
    workload = open_workload(data, setting.config)
    order = EpochOrder(np.arange(len(workload.source)), batch_size=setting.config.batch_size, seed=0)
    loader = ViewLoader(
        workload.source,
        order,
        view_recipe(setting.config),
        image_size=setting.config.image_size,
        device=setting.device,
        skipped=SkippedFiles(),
        cache_bytes=cache_bytes,
        processes=processes,
        fuse=setting.config.compile == "on",
    )
    return loader, order


def whole_loop(
    setting: Setting, trained_model: Any, data: Path, *, cache_bytes: int = 0, processes: bool = True
) -> Contestant:
    """The body of `moco.training.loop.train`, step by step, with the command's own loader, schedule and log reading."""
    loader, order = make_loader(setting, data, cache_bytes, processes=processes)
    if loader.planner.cache is not None:  # resident: as from the second epoch on
        loader.planner.cache.fill(loader.skipped, workers=loader.planner.workers)
    model, optimizer = trained_model
    task = loop.Task(
        config=setting.config,
        fabric=setting.fabric,
        batches=loader.batches,
        steps_per_epoch=order.steps_per_epoch,
        evaluate=None,
        checkpoint=Path(os.devnull),
        folder=None,
        show_progress=False,
    )
    now = loop.Progression()
    now.loss_sum, now.accuracy_sum = now.loss_sum.to(setting.device), now.accuracy_sum.to(setting.device)

    def start() -> tuple[Step, Callable[[], None]]:
        batches = loader.batches(now.step)

        def step() -> float:
            asked = time.perf_counter()
            views = next(batches)
            waited = time.perf_counter() - asked
            loop.one_step(model, views, optimizer, task, now)
            if now.step % setting.config.log_every == 0:
                float(now.loss_sum)  # as the log does
            return waited

        return step, batches.close

    return start


def views_alone(setting: Setting, data: Path, *, cache_bytes: int = 0) -> Contestant:
    """The loader by itself, with all cores: what the views would cost if nothing ran beside them."""
    loader, _ = make_loader(setting, data, cache_bytes)
    first = 0

    def start() -> tuple[Step, Callable[[], None]]:
        nonlocal first
        batches = loader.batches(first)
        first += 1000  # other images than in the last round

        def step() -> float:
            next(batches)
            return 0.0

        return step, batches.close

    return start


def fixed_batch(setting: Setting) -> torch.Tensor:
    """Noise of the right shape and layout."""
    size = setting.config.image_size
    x = torch.randn(setting.config.batch_size, 3, size, size, device=setting.device)
    return x.contiguous(memory_format=torch.channels_last)


def lightly_example(setting: Setting) -> Contestant | None:
    """lightly's documented MoCo v2 example in a process of its own, as its users start it; None without lightly."""
    if importlib.util.find_spec("lightly") is None:
        return None
    job = {"config": dataclasses.asdict(setting.config), "folder": str(setting.data), "device": str(setting.device)}
    environment = {name: value for name, value in os.environ.items() if name not in hardware.SETTINGS}
    command = [sys.executable, str(Path(__file__).with_name("peer.py")), json.dumps(job)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdin is not None
    assert process.stdout is not None
    ask, answers = process.stdin, process.stdout

    def tell(what: str) -> float:
        ask.write(what + "\n")
        ask.flush()
        return float(answers.readline())  # the seconds that it waited for data

    def rest() -> None:
        tell("rest")

    return lambda: ((lambda: tell("step")), rest)
