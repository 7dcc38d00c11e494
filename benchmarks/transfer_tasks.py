"""Does MoCo help every task of transfer, beside random and supervised weights? On the picture book and its scenes.

    python benchmarks/transfer_tasks.py FOLDER [--seeds 3] [--tasks detection ...] [--out FILE] [--threads 1]

In FOLDER: a MoCo run on the 6,000 pictures of the picture book (its recipe, no labels), the same pictures with labels,
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
from moco.transfer.comparison import Comparison
from provenance import provenance

SCENES = {"train": 400, "test": 120, "size": 64, "seed": 0}
# Where each task's annotations lie, and how it is trained: chosen on seed 100 so that random weights learn without
# coming near the best; the same for all initialisations.
DETECTOR = {"image_size": 64, "iterations": 250, "batch_size": 4, "width": 64, "rois": 32}
TASKS: dict[str, tuple[str, dict[str, Any]]] = {
    "detection": ("objects/instances_{}.json", DETECTOR),
    "instance-segmentation": ("objects/instances_{}.json", DETECTOR),
    "keypoints": ("people/keypoints_{}.json", DETECTOR),
    "lvis": ("long-tail/instances_{}.json", DETECTOR),
    "semantic-segmentation": ("objects/{}", {"image_size": 64, "iterations": 150, "batch_size": 8}),
}


def main() -> None:
    """Work through the tasks, seed by seed, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    prepare(options.folder, options.threads)
    done: dict[str, Comparison] = {}
    for seeds in range(1, options.seeds + 1):
        for task in options.tasks:
            done[task] = transferred(options.folder, task, options.first_seed, seeds)
            write(options, done)
    print(table(done))


def prepare(folder: Path, threads: int) -> None:
    """Scenes, the MoCo run and the labelled pictures, each unless it is there; writes how long the run took."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "scenes").exists():
        scenes(str(folder / "scenes"), **SCENES)
    run = moco.pretrain(out=folder / "moco", threads=threads, resume=(folder / "moco").exists())
    if not run.finished:
        raise KeyboardInterrupt
    if not (folder / "pictures.npz").exists():
        book, _ = picturebook.splits()
        with atomic.replaced(folder / "pictures.npz") as partial:
            np.savez(partial, images=book.images, labels=book.labels)


def transferred(folder: Path, task: str, first_seed: int, seeds: int) -> Comparison:
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
        labelled=str(folder / "pictures.npz"),
        seed=first_seed,
        seeds=seeds,
        quiet=True,
        **settings,
    )
    if not shared.exists():
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
        cells = [f"{task}, {found.main_score}"]
        for label in ("random", "supervised", "moco"):
            mean, spread = found.row(label).mean(found.main_score), found.row(label).spread(found.main_score)
            cells.append(f"{mean:.1f}" + ("" if spread is None else f" ± {spread:.1f}"))
        for each in found.differences[:2]:
            error = "" if each.error is None else f" ({each.error:.1f}, {each.outcome})"
            cells.append(f"{each.mean:+.1f}{error}")
        lines.append(f"| {' | '.join([*cells, str(len(found.rows[0].seeds))])} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
