"""At equal time, is a run that fits itself better than v2's defaults, and than settings chosen by hand?

    python benchmarks/fitted.py FOLDER... --minutes 10 [--seeds 0 1] [--arms fitted v2 guide] [--out FILE]

Each FOLDER has class folders, which only judge. For each folder and seed three runs of so many minutes, one after the
other: `fitted` (`moco pretrain FOLDER --budget`), `v2` (the recipe's own options, and its cosine over as many steps as
it can do in the time) and `guide` (set by hand: ResNet-18, 64 px, batch 64, K = 1,024, m = 0.99, learning rate 0.06).
The steps of the last two follow from the same measuring as those of the first.
20-NN accuracy on held-out images, the same ones for all arms of a seed, beside raw pixels and random weights of the
arm's own network. Where the memory does not hold a batch of v2, or not one step fits into the time, the arm says so.
Prints JSON, and writes it to --out.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import moco
from moco.errors import ConfigError, MocoError
from moco.fit import plan, rules
from moco.fit.facts import memory_bytes
from moco.fit.measure import measure
from moco.recipes import configure
from moco.training.device import expected_device
from moco.training.pretrain import Pretraining
from moco.training.run_folder import RunFolder
from provenance import provenance

MEASURING = 15.0  # seconds
GUIDE = {
    "backbone": "resnet18",
    "image_size": 64,
    "batch_size": 64,
    "dictionary_size": 1024,
    "key_momentum": 0.99,
    "base_learning_rate": 0.24,
    "schedule_unit": "step",
}
ARMS: dict[str, dict[str, Any] | None] = {"fitted": None, "v2": {}, "guide": GUIDE}
KEPT = ("knn_top1", "knn_pixels", "knn_random_init", "steps", "epochs", "seconds", "predicted_seconds", "loss")


def main() -> None:
    """Run all arms and write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folders", nargs="+")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--out", default=None)
    options = parser.parse_args()
    rows = [
        {"folder": Path(folder).name, "seed": seed, "arm": arm, **outcome(folder, arm, seed, options)}
        for folder in options.folders
        for seed in options.seeds
        for arm in options.arms
    ]
    stated = {"minutes": options.minutes, "threads": options.threads}
    report = {"question": __doc__.partition("\n")[0], "runs": rows, "options": stated, **provenance()}
    text = json.dumps(report, indent=2)
    print(text)
    if options.out:
        Path(options.out).write_text(text + "\n", encoding="utf-8")


def outcome(folder: str, arm: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Figures of one arm, or why there are none."""
    given, shared = ARMS[arm], {"seed": seed, "threads": options.threads}
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "run"
        try:
            if given is None:
                run = moco.pretrain(folder, out=out, budget=f"{60 * options.minutes:.0f}s", **shared)
            else:
                given = {**given, **shared}
                steps = affordable(folder, given, 60 * options.minutes, began)
                run = moco.pretrain(folder, out=out, recipe="v2", quiet=True, steps=steps, **given)
        except MocoError as error:
            return {"failed": str(error)}
        config = {name: getattr(run.config, name) for name in rules.FIELDS}
        return {name: run.summary[name] for name in KEPT} | {"config": config}


def affordable(folder: str, given: dict[str, Any], budget: float, began: float) -> int:
    """Steps of a v2 run that fit into the seconds; one at least, as a run of none is no run."""
    config = configure("v2", given)
    parts: dict[str, Any] = {
        "module": None,
        "starting": None,
        "transform": None,
        "callbacks": (),
        "loggers": "csv",
        "quiet": True,
    }
    run = Pretraining(folder, config, RunFolder(Path("unused")), start=began, **parts)
    measured = measure(run, min(MEASURING, budget / 10))
    if measured.memory > memory_bytes(expected_device(config)):
        raise ConfigError(f"a step takes {measured.memory / 2**30:.0f} GiB, more than there is here")
    pace = plan.pace_of(run, measured, len(run.images.pretraining), began)
    fixed = rules.fixed_seconds({"knn_images": config.knn_images, "knn_evaluations": config.knn_evaluations}, pace)
    return max(1, int((budget - fixed) / pace.step))


if __name__ == "__main__":
    main()
