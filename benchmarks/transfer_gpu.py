"""The paper's detection on VOC and COCO on one GPU, in parts: `make transfer-gpu`.

    python benchmarks/transfer_gpu.py RUN DATA [--tasks voc-c4-24k coco-fpn-1x coco-c4-2x] [--minutes 8.5] [--out OUT]

RUN is a run folder or a backbone.safetensors of a ResNet-50 with the standard stem. In DATA lie

    VOCdevkit/VOC2007 and VOCdevkit/VOC2012   Annotations, JPEGImages, ImageSets/Main (trainval; 2007 test)
    coco/train2017, coco/val2017              images
    coco/annotations                          instances_train2017.json, instances_val2017.json

and supervised weights are torchvision's of ImageNet, where $TORCH_HOME/hub/checkpoints has them: nothing is
downloaded. Each task is fine-tuned from RUN, random and supervised weights with one seed (`--seeds`), and tested. Each
call takes up to so many minutes and goes on where the last one stopped; exit code 3 means that there is more to do.
Figures of what is finished: OUT/TASK/comparison.json.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import moco
from moco.errors import DataError, MocoError, UnfinishedError
from moco.export.load import weights_path

# Task of `moco.transfer`, architecture, schedule. 1911.05722, sections 4.2.1 and 4.2.2.
TASKS = {
    "voc-c4-24k": ("detection", "c4", "paper-voc-24k"),
    "coco-fpn-1x": ("instance-segmentation", "fpn", "coco-1x"),
    "coco-c4-2x": ("instance-segmentation", "c4", "coco-2x"),
}
INITIALISATIONS = ("moco", "random", "supervised")
_YEARS = {"VOC2007": "trainval", "VOC2012": "trainval"}  # what 07+12 is
_LEAST, _SHORTEST = 0.05, 1e-5  # minutes: that are worth beginning a further task; that are handed on


def main() -> int:
    """Work on the tasks for so many minutes; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("backbone", metavar="RUN")
    parser.add_argument("data", metavar="DATA", type=Path)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--minutes", type=float, default=8.5)
    parser.add_argument("--out", type=Path, default=Path("transfer/gpu"))
    parser.add_argument("--initialisations", nargs="+", default=list(INITIALISATIONS))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--devices", type=int, default=1)
    options = vars(parser.parse_args())
    try:
        return work(**options)
    except MocoError as error:
        print(f"transfer_gpu: {error}", file=sys.stderr)
        return error.exit_code


def work(backbone: str, data: Path, tasks: list[str], *, minutes: float, out: Path, **settings: Any) -> int:
    """One task after another until the time is over; prints the tables of those that are finished.

    Args:
        backbone, data: as above.
        tasks: names in `TASKS`.
        minutes: of this call.
        out: folder of all tasks.
        settings: further ones of `moco.transfer`.

    Returns:
        0, or 3 where there is more to do.

    Raises:
        MocoError: data or weights that cannot be used.
    """
    end = time.monotonic() + 60 * minutes
    worked = False
    for task in tasks:
        left = (end - time.monotonic()) / 60
        if worked and left < _LEAST:
            print(f"{task}: not begun in this part", file=sys.stderr)
            return UnfinishedError.exit_code
        if is_finished(out / task / "comparison.json", backbone, settings):
            print(f"{task}: finished, see {out / task}")
            continue
        worked, (kind, architecture, schedule) = True, TASKS[task]
        given = {
            "architecture": architecture,
            "schedule": schedule,
            "out": str(out / task),
            "minutes": max(left, _SHORTEST),
        }
        try:
            files = annotations(task, data, out)
            print(moco.transfer(kind, backbone=backbone, **given, **files, **{"quiet": True} | settings))
        except UnfinishedError as error:
            print(f"{task}: {error}", file=sys.stderr)
            return error.exit_code
    return 0


def is_finished(file: Path, backbone: str, settings: dict[str, Any]) -> bool:
    """Whether the task has its table, of these weights and settings: to look at its data takes a minute."""
    weights = weights_path(backbone)
    if not file.is_file() or weights is None or not weights.is_file() or newer(weights, file):
        return False
    rows = json.loads(file.read_text(encoding="utf-8"))["results"]
    wanted = set(settings.get("initialisations", INITIALISATIONS))
    if str(weights) not in [row["origin"] for row in rows if row["label"] == "moco"] and "moco" in wanted:
        return False
    return wanted == {row["label"] for row in rows} and len(rows[0]["seeds"]) >= settings.get("seeds", 1)


def newer(file: Path, other: Path) -> bool:
    """Whether a file was written after another one."""
    return file.stat().st_mtime > other.stat().st_mtime


def annotations(task: str, data: Path, out: Path) -> dict[str, str]:
    """Where the task's annotations lie."""
    if task.startswith("voc"):
        return {
            "train": str(voc0712(data / "VOCdevkit", out / "voc0712")),
            "test": str(data / "VOCdevkit" / "VOC2007" / "ImageSets" / "Main" / "test.txt"),
        }
    folder = data / "coco" / "annotations"
    return {part: str(folder / f"instances_{name}2017.json") for part, name in (("train", "train"), ("test", "val"))}


def voc0712(devkit: Path, folder: Path) -> Path:
    """One list of both years' trainval images, in a folder of links to them; names of the years differ.

    Raises:
        DataError: a list of images is missing.
    """
    names: list[str] = []
    for part in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for year, part in _YEARS.items():
        root = (devkit / year).resolve()
        file = root / "ImageSets" / "Main" / f"{part}.txt"
        if not file.is_file():
            raise DataError(f"{file} is not there: need VOC 2007 and 2012, unpacked, as VOCdevkit in DATA")
        found = [line.split()[0] for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        for name in found:
            for kind, suffix in (("Annotations", ".xml"), ("JPEGImages", ".jpg")):
                link = folder / kind / f"{name}{suffix}"
                if not link.is_symlink() or os.readlink(link) != str(root / kind / link.name):
                    link.unlink(missing_ok=True)  # of another DATA
                    os.symlink(root / kind / link.name, link)
        names += found
    listed = folder / "ImageSets" / "Main" / "trainval.txt"
    listed.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    return listed


if __name__ == "__main__":
    raise SystemExit(main())
