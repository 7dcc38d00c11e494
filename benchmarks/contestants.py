"""What the throughput benchmark races: each contestant gives a step function and a function that ends its workers."""

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
from moco.config import Config
from moco.contrast import moco_step
from moco.data.cache import keep_decoded
from moco.data.loader import ViewLoader
from moco.data.order import EpochOrder
from moco.data.recipe_views import RecipeViews
from moco.data.skipped import SkippedFiles
from moco.data.views import view_recipe
from moco.recipes import configure
from moco.training import checkpoint, loop
from moco.training.device import make_fabric, place, settled
from moco.training.encoder import build_checked_encoder
from moco.training.images import open_images
from moco.training.mechanism import build_model
from moco.training.optimizer import make_optimizer

Step = Callable[[], float]  # one step; returns the seconds that it waited for data
Contestant = Callable[[], tuple[Step, Callable[[], None]]]
RESIDENT_BYTES = 8 * 2**30


@dataclasses.dataclass(frozen=True)
class Setting:
    """What all contestants share.

    Attributes:
        config: with precision and layout settled.
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
    """Settle precision and layout as `moco pretrain` does, and pack the images."""
    names = ("backbone", "image_size", "stem", "batch_size", "dictionary_size", "compile", "precision", "layout")
    chosen = {name: getattr(options, name) for name in names}
    config, _ = settled(configure(options.recipe, {**chosen, "knn_evaluations": 0, "steps": 10**6}))
    pack = None
    if data.is_dir() and (options.only is None or "packed" in options.only):
        pack = moco.pack(data, out=scratch / "pack", short_side=0, quiet=True).path
    return Setting(config, make_fabric(config), data, pack)


def contestants(setting: Setting, only: list[str] | None) -> dict[str, Contestant]:
    """All of them by name, or those in `only`, of those that there can be."""
    model, data = trained(setting), setting.data
    makers: dict[str, Callable[[], Contestant | None]] = {
        "bare": lambda: bare(setting),
        "step": lambda: fixed_step(setting, model),
        "resident": lambda: whole_loop(setting, model, data, budget=RESIDENT_BYTES),
        "resident views": lambda: views_alone(setting, data, budget=RESIDENT_BYTES),
    }
    if data.is_dir():
        makers |= {
            "folder": lambda: whole_loop(setting, model, data),
            "folder views": lambda: views_alone(setting, data),
            "packed": lambda: whole_loop(setting, model, setting.pack) if setting.pack else None,
            "lightly": lambda: peer(setting, "published"),
            "lightly, same settings": lambda: peer(setting, "same"),
        }
    made = {name: makers[name]() for name in (makers if only is None else makers.keys() & set(only))}
    return {name: runner for name in makers if (runner := made.get(name)) is not None}


def trained(setting: Setting) -> Any:
    """Model and optimiser, placed."""
    model = build_model(build_checked_encoder(setting.config), setting.config, images=setting.config.batch_size)
    place(model, setting.fabric, setting.config)
    return model, make_optimizer(model.train(), setting.config)


def bare(setting: Setting) -> Contestant:
    """Query forward and backward, key forward, optimiser; plain BatchNorm, no dictionary."""
    layout = torch.channels_last if setting.config.layout == "channels_last" else torch.contiguous_format
    encoder_q = build_checked_encoder(setting.config).to(setting.device, memory_format=layout)
    encoder_k = copy.deepcopy(encoder_q).requires_grad_(False)
    optimizer = torch.optim.SGD(encoder_q.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4, fused=True)
    query, key = encoder_q, encoder_k
    if setting.config.compile:
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


def make_loader(setting: Setting, data: Path, budget: int = 0) -> tuple[ViewLoader, EpochOrder]:
    """The command's own loader; with a budget all images are decoded before it starts, as from the second epoch on."""
    config = setting.config
    source = open_images(data, config).source
    order = EpochOrder(np.arange(len(source)), batch_size=config.batch_size, seed=0)
    make = RecipeViews(view_recipe(config), config.image_size, order, device_type=setting.device.type)
    source, _ = keep_decoded(source, order.indices, budget=budget, min_side=make.min_side)
    if budget:
        for index in range(len(source)):
            source.pixels(index)
    return ViewLoader(source, order, make, device=setting.device, skipped=SkippedFiles()), order


def whole_loop(setting: Setting, trained_model: Any, data: Path, *, budget: int = 0) -> Contestant:
    """The body of `moco.training.loop.train`, step by step, with the command's own loader, schedule and log reading."""
    loader, order = make_loader(setting, data, budget)
    model, optimizer = trained_model
    run = loop.Training(
        config=setting.config,
        fabric=setting.fabric,
        model=model,
        optimizer=optimizer,
        batches=loader.batches,
        bank_rows=None,
        steps_per_epoch=order.steps_per_epoch,
        evaluate=None,
        checkpoint=Path(os.devnull),
        folder=None,
        position=checkpoint.Position(),
        show_progress=False,
    )
    now = run.position
    now.loss_sum, now.accuracy_sum = now.loss_sum.to(setting.device), now.accuracy_sum.to(setting.device)

    def start() -> tuple[Step, Callable[[], None]]:
        batches = run.batches(now.step)

        def step() -> float:
            began = time.perf_counter()
            batch = next(batches)
            waited = time.perf_counter() - began
            loop.one_step(run, batch)
            if now.step % setting.config.log_every == 0:
                float(now.loss_sum)  # as the log does
            return waited

        return step, batches.close

    return start


def views_alone(setting: Setting, data: Path, *, budget: int = 0) -> Contestant:
    """The loader by itself, with all cores: what the views would cost if nothing ran beside them."""
    loader, _ = make_loader(setting, data, budget)
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


def peer(setting: Setting, form: str) -> Contestant | None:
    """lightly's documented MoCo v2 example in a process of its own, as its users start it; None without lightly.

    `form`: "published" (fp32, contiguous), or "same": precision and layout as ours.
    """
    if importlib.util.find_spec("lightly") is None:
        return None
    job = {"config": dataclasses.asdict(setting.config), "folder": str(setting.data), "device": str(setting.device)}
    environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    command = [sys.executable, str(Path(__file__).with_name("peer.py")), json.dumps({**job, "form": form})]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdin is not None
    assert process.stdout is not None
    orders, answers = process.stdin, process.stdout

    def tell(what: str) -> float:
        orders.write(what + "\n")
        orders.flush()
        return float(answers.readline())  # the seconds that it waited for data

    def rest() -> None:
        tell("rest")

    return lambda: ((lambda: tell("step")), rest)
