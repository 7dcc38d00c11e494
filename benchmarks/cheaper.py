"""At equal time or computation, which of the options that save computation make a run better?

    python benchmarks/cheaper.py FOLDER... --minutes 10 [--seeds 0 1 2] [--arms plain progressive ...] --out FILE
    python benchmarks/cheaper.py FOLDER... --steps 1500 ...

Each FOLDER has class folders, which only judge; where it has the parts `train` and `test`, the second is held out. For
each folder and seed, one run of so many minutes for each arm, one after the other: `plain` is a run that fits itself
(`moco pretrain FOLDER --budget`), the others are the same with an arm's options, whose steps are measured and counted
anew, so that a cheaper step is more of them. `--with` states options for all arms (`--with image_size=32`).
With `--steps` an arm has so many steps divided by what one of its steps costs (`COSTS`, from step_cost.py): on a busy
machine, where minutes say little, this is the same computation.
20-NN accuracy on the held-out images, the same ones for all arms of a seed, beside raw pixels and random weights.
Rows that are in --out already are not run again. Prints JSON, and writes it to --out after each row.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

import moco
from moco.errors import MocoError
from provenance import provenance

ARMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "sgd": {"optimizer": "sgd"},
    "symmetric": {"symmetric": True},
    "progressive": {"progressive_resolution": "auto"},
    "progressive-48": {"progressive_resolution": "48:0.9"},
    "decoupled": {"decoupled": True},
    "nearest": {"nearest_positives": 1.0},
    "nearest-half": {"nearest_positives": 0.5},
    "small-2": {"small_views": 2},
    "small-4": {"small_views": 4},
    "small-4-wide": {"small_views": 4, "small_crop": (0.2, 0.6)},
    "patches": {"patches": True},
    "patches-symmetric": {"patches": True, "symmetric": True},
    "average": {"batchnorm": "average"},
    "batch-32": {"batch_size": 32},
    "batch-64": {"batch_size": 64},
    "temperature-0.1-batch-128": {"temperature": 0.1, "batch_size": 128},
    "wide-head": {"hidden_dim": 2048},
    "adamw": {"optimizer": "adamw", "base_learning_rate": 0.004, "weight_decay": 0.01},
    "learning-rate-x2": {"base_learning_rate": 0.48},
    "momentum-0.99": {"key_momentum": 0.99},
    "temperature-0.1": {"temperature": 0.1},
    "temperature-0.2": {"temperature": 0.2},
    "weight-decay-5e-4": {"weight_decay": 5e-4},
    "progressive-decoupled": {"progressive_resolution": "auto", "decoupled": True},
    "progressive-patches": {"progressive_resolution": "auto", "patches": True},
    "progressive-nearest": {"progressive_resolution": "auto", "nearest_positives": 0.5},
    "progressive-average": {"progressive_resolution": "auto", "batchnorm": "average"},
    "progressive-decoupled-patches": {"progressive_resolution": "auto", "decoupled": True, "patches": True},
}
# A step with its views, beside a plain one; 1 where nothing stands here (results/step_cost-cpu.json, bf16).
COSTS = {
    "sgd": 0.5,  # resnet_small at 32 px, where `plain` has batches of 128; about 0.9 at 64 px
    "symmetric": 2.0,
    "progressive": 0.55,
    "progressive-48": 0.64,  # at 64 px, by the numbers of pixels
    "small-2": 1.3,
    "small-4": 1.57,
    "small-4-wide": 1.57,
    "patches": 1.1,
    "patches-symmetric": 2.1,
    "batch-32": 0.5,
    "batch-64": 0.65,  # at 32 px
    "temperature-0.1-batch-128": 1.55,  # of a batch of 64 at 32 px, as `plain` was until 2026-11-29
    "progressive-decoupled": 0.55,
    "progressive-patches": 0.6,
    "progressive-nearest": 0.55,
    "progressive-average": 0.5,
    "progressive-decoupled-patches": 0.6,
    "average": 0.9,
}
KEPT = (
    *("knn_top1", "knn_pixels", "knn_random_init", "loss", "pretext_accuracy", "steps", "epochs"),
    *("seconds", "training_seconds", "predicted_seconds", "peak_memory_bytes"),
)
MONITOR = {"knn_images": 4000, "knn_evaluations": 1}  # stated, so that all arms are asked about the same images
Row = dict[str, Any]


def main() -> None:
    """Run the arms that are not in the file yet and write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folders", nargs="+")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, default=10.0)
    length.add_argument("--steps", type=int, default=None)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=["plain", "progressive", "decoupled", "patches"])
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--with", dest="shared", nargs="*", default=[], metavar="NAME=VALUE")
    parser.add_argument("--out", default=None)
    options = parser.parse_args()
    shared = {name: yaml.safe_load(value) for name, _, value in (pair.partition("=") for pair in options.shared)}
    length_of = {"minutes": options.minutes} if options.steps is None else {"plain_steps": options.steps}
    stated = {**length_of, "threads": options.threads, "with": shared}
    rows = earlier(options.out)
    for folder in options.folders:
        for seed in options.seeds:
            for arm in options.arms:
                row = {"folder": Path(folder).name, "seed": seed, "arm": arm, **stated}
                if any(row.items() <= other.items() for other in rows if "failed" not in other):
                    continue
                rows.append({**row, **outcome(folder, arm, seed, options, shared), **provenance()})
                write(rows, options.out)
    print(write(rows, options.out))


def earlier(out: str | None) -> list[Row]:
    """The rows of an earlier part of the same measurement."""
    if out is None or not Path(out).is_file():
        return []
    return list(json.loads(Path(out).read_text(encoding="utf-8"))["runs"])


def write(rows: list[Row], out: str | None) -> str:
    """All rows as JSON, each with where it comes from."""
    text = json.dumps({"question": __doc__.partition("\n")[0], "runs": rows}, indent=2)
    if out:
        Path(out).write_text(text + "\n", encoding="utf-8")
    return text


def outcome(folder: str, arm: str, seed: int, options: argparse.Namespace, shared: Row) -> Row:
    """Figures of one arm, or why there are none."""
    place, cpu = Path(folder), time.process_time()
    parts: Row = {"data": place}
    if (place / "train").is_dir() and (place / "test").is_dir():
        parts = {"data": place / "train", "test": str(place / "test")}
    given: Row = {**MONITOR, **shared, **ARMS[arm], "seed": seed, "threads": options.threads}
    if options.steps is None:
        given["budget"] = f"{60 * options.minutes:.0f}s"
    else:
        given["steps"] = max(1, int(options.steps / COSTS.get(arm, 1.0)))
    with tempfile.TemporaryDirectory() as scratch:
        try:
            run = moco.pretrain(**parts, out=Path(scratch) / "run", quiet=True, **given)
        except MocoError as error:
            return {"failed": str(error)}
        if not run.finished:
            return {"failed": "stopped before its end"}
        config = {name: getattr(run.config, name) for name in ("backbone", "image_size", "batch_size", "key_momentum")}
        figures = {name: run.summary[name] for name in KEPT}
    return {**figures, "cpu_seconds": round(time.process_time() - cpu, 1), "config": config}


if __name__ == "__main__":
    main()
