"""How close does the whole loop come to the bare encoder?

    python benchmarks/throughput.py [--data FOLDER] [--backbone resnet18] [--image-size 64] [--batch-size 64]

Images per second of, in turn and again (A B C A B C ...):

  bare     query forward and backward, key forward, optimiser, on one fixed batch: the work that has to cost time
  step     `moco_step` on one fixed batch: adds split BatchNorm, the loss over the queue, momentum update, enqueue
  loop     `moco.training.loop.train` with views cropped and coloured from the data: what `moco pretrain` runs

The data: a folder of images, or without --data the embedded picture book resident in memory. Prints medians, quartiles
and ratios to `bare`, and writes JSON to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import itertools
import json
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from moco.contrast import moco_step
from moco.data.loader import ViewLoader
from moco.data.order import EpochOrder
from moco.data.skipped import SkippedFiles
from moco.pretraining import build_checked_encoder, build_moco
from moco.recipes import configure
from moco.summary import versions
from moco.training import loop
from moco.training.engine import make_fabric, place, resolve_precision
from moco.workload import open_workload, view_recipe


def main() -> None:
    """Measure and write."""
    options = parse()
    config = configure(
        "v2",
        {
            "backbone": options.backbone,
            "image_size": options.image_size,
            "batch_size": options.batch_size,
            "dictionary_size": options.dictionary_size,
            "knn_evaluations": 0,
            "steps": 10**9,
        },
    )
    fabric = make_fabric(config)
    contestants = {
        "bare": bare(config, fabric),
        "step": fixed_step(config, fabric),
        "loop": whole_loop(config, fabric, options.data),
    }
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(options.rounds):
        for name, run in contestants.items():
            seconds[name].append(timed(run, options.steps, fabric.device))
    text = json.dumps(report(options, config, fabric.device, seconds), indent=2)
    print(text)
    if options.out:
        Path(options.out).write_text(text + "\n", encoding="utf-8")


def report(options: argparse.Namespace, config, device: torch.device, seconds: dict[str, list[float]]) -> dict:
    """Rates, ratios, and all that is needed to repeat them."""
    images = options.steps * options.batch_size
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return {
        "question": "images per second of the whole loop against the bare encoder",
        "rates": {name: quartiles([images / s for s in values]) for name, values in seconds.items()},
        "ratio_to_bare": {
            name: statistics.median(b / s for b, s in zip(seconds["bare"], values, strict=True))
            for name, values in seconds.items()
        },
        "options": {**vars(options), "data": "picture book" if options.data is None else Path(options.data).name},
        "precision": resolve_precision(config),
        "hardware": f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, {device}",
        "commit": commit.stdout.strip(),
        "versions": versions(),
    }


def parse() -> argparse.Namespace:
    """Options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default=None)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--dictionary-size", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=8, help="steps in each timing")
    parser.add_argument("--out", default=None, help="JSON file")
    return parser.parse_args()


def bare(config, fabric) -> Callable[[int], None]:
    """Query forward and backward, key forward, optimiser; plain BatchNorm, no dictionary."""
    encoder_q = build_checked_encoder(config).to(fabric.device, memory_format=torch.channels_last)
    encoder_k = copy.deepcopy(encoder_q).requires_grad_(False)
    optimizer = torch.optim.SGD(encoder_q.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4, fused=True)
    x = fixed_batch(config, fabric.device)

    def run(steps: int) -> None:
        for _ in range(steps):
            with fabric.autocast():
                q = encoder_q(x)
                with torch.no_grad():
                    encoder_k(x)
            optimizer.zero_grad()
            fabric.backward(q.float().square().mean())
            optimizer.step()

    return run


def fixed_step(config, fabric) -> Callable[[int], None]:
    """The algorithm on a fixed batch."""
    model = build_moco(build_checked_encoder(config), config)
    place(model, fabric)
    optimizer = loop.make_optimizer(model.train(), config)
    x = fixed_batch(config, fabric.device)

    def run(steps: int) -> None:
        for _ in range(steps):
            moco_step(model, x, x, optimizer, backward=fabric.backward)

    return run


def whole_loop(config, fabric, data) -> Callable[[int], None]:
    """The command's own loop, with its loader, log and progress."""
    workload = open_workload(data, config)
    model = build_moco(build_checked_encoder(config), config)
    place(model, fabric)
    optimizer = loop.make_optimizer(model.train(), config)
    order = EpochOrder(workload.pretraining, batch_size=config.batch_size, seed=0)
    loader = ViewLoader(
        workload.source,
        order,
        view_recipe(config),
        image_size=config.image_size,
        device=fabric.device,
        skipped=SkippedFiles(),
    )
    now = loop.Progression()
    batches = loader.batches(0)
    folder = Path(tempfile.mkdtemp())

    def run(steps: int) -> None:
        task = loop.Task(
            config=dataclasses.replace(config, steps=now.step + steps),
            fabric=fabric,
            batches=lambda first: itertools.islice(batches, steps),
            steps_per_epoch=order.steps_per_epoch,
            evaluate=None,
            checkpoint=folder / "last.pt",
            folder=None,
            show_progress=False,
        )
        loop.train(model, optimizer, task, now)

    return run


def fixed_batch(config, device: torch.device) -> torch.Tensor:
    """Noise of the right shape and layout."""
    x = torch.randn(config.batch_size, 3, config.image_size, config.image_size, device=device)
    return x.contiguous(memory_format=torch.channels_last)


def timed(run: Callable[[int], None], steps: int, device: torch.device) -> float:
    """Seconds for `steps` steps after one for warmth; waits for the device."""
    run(1)
    synchronize(device)
    start = time.perf_counter()
    run(steps)
    synchronize(device)
    return time.perf_counter() - start


def synchronize(device: torch.device) -> None:
    """Wait for a GPU's queue."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def quartiles(values: list[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
    return {"median": middle, "low": low, "high": high}


if __name__ == "__main__":
    main()
