"""What does a step of each option that saves computation cost beside a plain one?

    python benchmarks/step_cost.py FOLDER [--arms ...] [--precisions fp32 bf16] [--rounds 5] [--out FILE]

The arms are those of cheaper.py. Of each, a step of the whole loop, in seconds of this process's CPU time, of which
other programs take nothing: `views` in this process, from decoded images, and `step`, all that follows. Arms alternate,
one step a round, after two rounds that do not count; medians. Smaller views first are the mean over the run's sizes.
Prints JSON, and writes it to --out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from cheaper import ARMS
from moco.config import Config
from moco.fit.measure import rehearsal
from moco.recipes import configure
from moco.training import loop
from moco.training.pretrain import Pretraining
from moco.training.run_folder import RunFolder
from provenance import provenance

WARM_UP = 2  # rounds
BASE = {
    "image_size": 64,
    "batch_size": 64,
    "dictionary_size": 1024,
    "key_momentum": 0.998,
    "base_learning_rate": 0.24,
    "knn_evaluations": 0,
    "steps": 1000,
    "workers": 0,
    "threads": 1,
}
LATE = 900  # a step at which every option is on and the views have their final size


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--precisions", nargs="+", choices=["fp32", "bf16"], default=["fp32", "bf16"])
    parser.add_argument("--backbone", default="resnet_small")
    parser.add_argument("--image-size", type=int, default=BASE["image_size"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", default=None)
    options = parser.parse_args()
    rows = [row for precision in options.precisions for row in measured(precision, options)]
    stated = {**vars(options), "folder": Path(options.folder).name}
    del stated["out"]
    report = {"question": __doc__.partition("\n")[0], "options": stated, "rows": rows, **provenance()}
    text = json.dumps(report, indent=2)
    print(text)
    if options.out:
        Path(options.out).write_text(text + "\n", encoding="utf-8")


def measured(precision: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Medians of each arm at a precision, and the ratio of its step to that of the first arm."""
    shared = {**BASE, "backbone": options.backbone, "image_size": options.image_size, "precision": precision}
    arms = {arm: parts(options.folder, configure("v2", {**shared, **ARMS[arm]})) for arm in options.arms}
    taken: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for round_ in range(options.rounds + WARM_UP):
        for arm, sizes in arms.items():
            for number, (_, laps) in enumerate(sizes):
                lap = next(laps)
                if round_ >= WARM_UP:
                    taken.setdefault((arm, number), []).append(lap)
    rows: list[dict[str, Any]] = []
    for arm, sizes in arms.items():
        views, step = (
            sum(part * statistics.median(lap[which] for lap in taken[arm, n]) for n, (part, _) in enumerate(sizes))
            for which in (0, 1)
        )
        rows.append({"arm": arm, "precision": precision, "views": round(views, 4), "step": round(step, 4)})
    for row in rows:
        row["ratio"] = round((row["views"] + row["step"]) / (rows[0]["views"] + rows[0]["step"]), 3)
        row["ratio_of_step"] = round(row["step"] / rows[0]["step"], 3)
    return rows


def parts(folder: str, config: Config) -> list[tuple[float, Iterator[tuple[float, float]]]]:
    """For each size of the views, its share of the run and the laps."""
    alone: Any = {"module": None, "starting": None, "transform": None, "callbacks": (), "loggers": "csv"}
    run = Pretraining(folder, config, RunFolder(Path("unused")), start=0.0, quiet=True, **alone)
    return [(part, laps(run, size)) for size, part in config.sizes.shares()]


def laps(run: Pretraining, size: Any) -> Iterator[tuple[float, float]]:
    """Seconds of CPU for the views of a step and for the step itself, one step after the other."""
    training = rehearsal(run, run.config, size, images=256, step=LATE)
    batches = training.batches(0)
    while True:
        began = time.process_time()
        batch = next(batches)
        between = time.process_time()
        loop.one_step(training, batch)
        assert torch.isfinite(training.loss if training.loss is not None else torch.zeros(()))
        yield between - began, time.process_time() - between


if __name__ == "__main__":
    main()
