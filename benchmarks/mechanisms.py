"""What a step of each mechanism costs, and what a large dictionary adds to MoCo's, in one process and by turns.

    python benchmarks/mechanisms.py --out benchmarks/results/mechanisms-cpu.json

Steps run on fixed random views without data loading, on one thread. Each round makes one step of every contestant;
reported are medians of the rounds in seconds of the process's CPU: on one thread a step's own time, whatever else runs.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from moco.config import Config
from moco.recipes import configure
from moco.training.device import make_fabric, place
from moco.training.encoder import build_checked_encoder
from moco.training.mechanism import STEPS, build_model
from moco.training.optimizer import make_optimizer
from moco.version import __version__

IMAGES = 100_000  # rows of the memory bank


def contestant(config: Config) -> Callable[[], None]:
    """A function that makes one step."""
    fabric = make_fabric(config)
    model = build_model(build_checked_encoder(config), config, images=IMAGES)
    place(model, fabric, config)
    model.train()
    optimizer = make_optimizer(model, config)
    layout = torch.channels_last if config.layout == "channels_last" else torch.contiguous_format
    shape = (config.batch_size, 3, config.image_size, config.image_size)
    views = [torch.randn(shape).contiguous(memory_format=layout) for _ in range(2)]
    step = STEPS[config.mechanism, config.symmetric]

    def one() -> None:
        second = torch.randperm(IMAGES)[: config.batch_size] if config.mechanism == "memory-bank" else views[1]
        step(model, views[0], second, optimizer, backward=fabric.backward)

    return one


def by_turns(contestants: dict[str, Callable[[], None]], rounds: int) -> dict[str, dict[str, float]]:
    """Median seconds of a step of each, after one round for warmth."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds + 1):
        for name, one in contestants.items():
            began = time.process_time()
            one()
            seconds[name].append(time.process_time() - began)
    return {name: {"cpu_s": statistics.median(times[1:])} for name, times in seconds.items()}


def options(arguments: argparse.Namespace, **changes: Any) -> Config:
    """A run's configuration with precision and layout stated."""
    stated = {"precision": arguments.precision, "layout": "channels_last", "accelerator": "cpu"}
    return configure("v2", {**stated, **changes})


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Both questions, one after the other."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    small = {"backbone": arguments.backbone, "image_size": arguments.image_size, "batch_size": arguments.batch_size}
    steps = by_turns(
        {
            name: contestant(options(arguments, mechanism=name, **small, **size))
            for name, size in {
                "moco": {"dictionary_size": arguments.dictionary_size},
                "memory-bank": {"dictionary_size": arguments.dictionary_size},
                "end-to-end": {},
            }.items()
        },
        arguments.rounds,
    )
    for value in steps.values():
        value["images_per_cpu_second"] = arguments.batch_size / value["cpu_s"]
        value["against_moco"] = value["cpu_s"] / steps["moco"]["cpu_s"]
    large = {"backbone": "resnet18", "image_size": 64, "batch_size": 256}
    by_size = by_turns(
        {str(size): contestant(options(arguments, dictionary_size=size, **large)) for size in (256, 65536)},
        arguments.large_rounds,
    )
    added = by_size["65536"]["cpu_s"] / by_size["256"]["cpu_s"] - 1
    return {
        "settings": {name: value for name, value in vars(arguments).items() if name != "out"},
        "steps": steps,
        "dictionary_size": {"resnet18 at 64 px, batch 256": by_size, "added_by_65536": added},
        "versions": {"moco": __version__, "torch": str(torch.__version__), "python": platform.python_version()},
        "threads": 1,
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet_small")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--dictionary-size", type=int, default=4096)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--large-rounds", type=int, default=2)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    result = json.dumps(measure(arguments), indent=1)
    print(result)
    if arguments.out:
        arguments.out.write_text(result + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
