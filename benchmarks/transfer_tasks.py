"""Does MoCo help every task of transfer, beside random and supervised weights? On the picture book and its scenes.

    python benchmarks/transfer_tasks.py FOLDER [--seeds 3] [--tasks detection ...] [--out FILE] [--threads 1]

In FOLDER: a MoCo run on the 6,000 pictures of the picture book (its views, no labels), the same pictures with labels,
on which the supervised weights are trained, scenes of several objects with annotations (`moco scenes`), and a folder
for each task. Every task is fine-tuned on train scenes and tested on others, from the three initialisations, with the
settings below, which are the same for each. Seed after seed: the same command goes on with what is not finished, and
FILE has at any time what is done. Prints the table.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import moco
from moco import atomic
from moco.commands.scenes import scenes
from moco.data import picturebook
from moco.transfer.fine_tuning.comparison import SUPERVISED, Comparison, Difference, Row
from provenance import provenance

# As the figures of docs/transfer.md were made; the picture book's own recipe has muon since.
PRETRAINING = {"optimizer": "sgd", "base_learning_rate": 0.24, "weight_decay": 5e-4, "steps": 3000, "warmup_steps": 100}
SCENES = {"train": 400, "test": 100, "size": 64, "seed": 0}
# Where each task's annotations lie, and how it is trained; the same for all initialisations. Detection was looked at on
# seed 100, dense pose too, whose 300 iterations are too few for parts; the other lengths are estimates (docs/log.md,
# "Transfer on scenes", "Dense pose on scenes").
DETECTOR = {"image_size": 64, "batch_size": 4, "learning_rate": 0.04, "width": 32, "rois": 16}
TASKS: dict[str, tuple[str, dict[str, Any]]] = {
    "detection": ("people/keypoints_{}.json", DETECTOR | {"iterations": 200}),
    "instance-segmentation": ("people/keypoints_{}.json", DETECTOR | {"iterations": 500}),
    "keypoints": ("people/keypoints_{}.json", DETECTOR | {"iterations": 500, "learning_rate": 0.01}),
    "densepose": ("people/densepose_{}.json", DETECTOR | {"iterations": 300, "learning_rate": 0.003}),
    "lvis": ("long-tail/instances_{}.json", DETECTOR | {"iterations": 600}),
    "semantic-segmentation": (
        "objects/{}",
        {"image_size": 64, "iterations": 300, "batch_size": 4, "learning_rate": 0.02},
    ),
}


def main() -> None:
    """Work through the tasks, seed by seed, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--initialisations", nargs="+", default=["moco", "random", "supervised"])
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    prepare(options.folder, options.threads)
    done: dict[str, Comparison] = {}
    for seeds in range(1, options.seeds + 1):
        for task in options.tasks:
            done[task] = transferred(options.folder, task, options.first_seed, seeds, options.initialisations)
            write(options, done)
    print(table(done))


def prepare(folder: Path, threads: int) -> None:
    """Scenes, the MoCo run and the labelled pictures, each unless it is there; writes how long the run took."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "scenes").exists():
        scenes(str(folder / "scenes"), **SCENES)
    if not (folder / "moco" / "summary.json").exists():
        pretraining: dict[str, Any] = {"resume": True} if (folder / "moco").exists() else PRETRAINING
        run = moco.pretrain(out=folder / "moco", threads=threads, **pretraining)
        if not run.finished:
            raise KeyboardInterrupt
    if not (folder / "pictures.npz").exists():
        book, _ = picturebook.splits()
        with atomic.replaced(folder / "pictures.npz") as partial:
            np.savez(partial, images=book.images, labels=book.labels)


def transferred(folder: Path, task: str, first_seed: int, seeds: int, initialisations: list[str]) -> Comparison:
    """The comparison of one task; supervised weights are trained for the first one, and copied for the others."""
    out, shared = folder / f"{task}-{first_seed}", folder / f"supervised-{first_seed}.pt"
    out.mkdir(exist_ok=True)
    if shared.exists() and not (out / "supervised.pt").exists():
        shutil.copy(shared, out / "supervised.pt")
    data, settings = TASKS[task]
    found = moco.transfer(
        task,
        backbone=str(folder / "moco"),
        train=str(folder / "scenes" / data.format("train")),
        test=str(folder / "scenes" / data.format("test")),
        out=str(out),
        labelled=str(folder / "pictures.npz") if SUPERVISED in initialisations else None,
        initialisations=initialisations,
        seed=first_seed,
        seeds=seeds,
        quiet=True,
        **settings,
    )
    if SUPERVISED in initialisations and not shared.exists():
        shutil.copy(out / "supervised.pt", shared)
    return found


def write(options: argparse.Namespace, done: dict[str, Comparison]) -> None:
    """Everything so far, as JSON beside the folder or where --out says."""
    report = {
        "question": __doc__.partition("\n")[0],
        "scenes": SCENES,
        "pretraining": json.loads((options.folder / "moco" / "summary.json").read_text(encoding="utf-8")),
        "threads": options.threads,
        "tasks": {task: {**found.as_dict(), "settings_given": TASKS[task][1]} for task, found in done.items()},
        "table": table(done).splitlines(),
        "written": time.strftime("%Y-%m-%d"),
        **provenance(),
    }
    atomic.write_json(options.out or options.folder / "transfer_tasks.json", report)


def table(done: dict[str, Comparison]) -> str:
    """A row a task: the main figure of each initialisation, and MoCo's differences with their standard errors."""
    lines = ["| task | random | supervised | MoCo | MoCo - random | MoCo - supervised | seeds |", "| --- " * 7 + "|"]
    for task, found in done.items():
        rows = {row.label: row for row in found.rows}
        figures = [figure(rows.get(label), found.main_score) for label in ("random", "supervised", "moco")]
        differences = {each.to: each for each in found.differences if each.of == "moco"}
        beside = [difference(differences.get(other)) for other in ("random", "supervised")]
        cells = [f"{task}, {found.main_score}", *figures, *beside, str(len(found.rows[0].seeds))]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def figure(row: Row | None, name: str) -> str:
    """Mean and standard deviation over the seeds; a dash where the initialisation is missing."""
    mean = None if row is None else row.mean(name)
    if row is None or mean is None:
        return "-"
    spread = row.spread(name)
    return f"{mean:.1f}" + ("" if spread is None else f" ± {spread:.1f}")


def difference(found: Difference | None) -> str:
    """Points of a percent, with standard error and outcome."""
    if found is None:
        return "-"
    return f"{found.mean:+.1f}" + ("" if found.error is None else f" ({found.error:.1f}, {found.outcome})")


if __name__ == "__main__":
    main()
