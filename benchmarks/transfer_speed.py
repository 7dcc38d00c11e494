"""What does a step of `moco transfer` cost beside torchvision's reference step, and how long does AP take?

    python benchmarks/transfer_speed.py [--steps 12] [--side 128] [--images 5000] [--out FILE]

Three figures, by processor time of one thread, which other work on the machine changes little (wall time too):
step: one iteration of our loop (schedule, seeds, images included) and one of torchvision's detection reference
(`references/detection/engine.py`: losses, backward, SGD), the same ResNet-18 Faster R-CNN with a feature pyramid, batch
of 4 and images, in alternation A B A B; the median of each and of the pairs' ratio. B gets its images ready.
loader: the share of our iteration that reading, resizing and mirroring images takes, in this process.
AP: boxes of 5,000 images, 21 answers each, from answers to figures.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from moco import atomic
from moco.data.picturebook.scene_folder import write_scenes
from moco.encoder import build_backbone
from moco.normalization import IMAGENET
from moco.transfer.annotations import AnnotatedImage, Annotations, Instance, open_annotations
from moco.transfer.detection.average_precision import Found, average_precision
from moco.transfer.detection.detection import Detection
from moco.transfer.fine_tuning.loop import MOMENTUM, FineTuning
from moco.transfer.fine_tuning.options import Options
from moco.transfer.fine_tuning.schedule import Schedule
from moco.transfer.networks.detector import DetectorSettings
from provenance import provenance

BATCH = 4
ANSWERS, OBJECTS, CLASSES = 21, 7, 20  # of an image in the test of AP
WARM = 2  # steps before the first that counts


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        report = steps(Path(scratch), options.steps, options.side)
    report["ap"] = precision(options.images)
    stated = {"steps": options.steps, "side": options.side, "batch": BATCH, "threads": 1}
    report = {"question": __doc__.partition("\n")[0], **report, "options": stated, **provenance()}
    for name in ("step", "loader", "ap"):
        print(name, report[name])
    if options.out:
        atomic.write_json(options.out, report)


def steps(scratch: Path, count: int, side: int) -> dict[str, Any]:
    """Our iteration and the reference's in alternation, and what part of ours is the loader."""
    write_scenes(scratch / "scenes", train=40, test=4, size=side, seed=0)
    task = detection(scratch / "scenes" / "objects", side)
    schedule = Schedule(1000, 0, (), 0.02, batch_size=BATCH)
    ours = FineTuning(task, backbone(), schedule=schedule, seed=0, options=Options(quiet=True))
    theirs = task.model(backbone())
    update = torch.optim.SGD(theirs.parameters(), lr=0.02, momentum=MOMENTUM, weight_decay=1e-4)
    given, same = task.batches(seed=0, start=0), task.batches(seed=0, start=0)
    ours.model.train()
    theirs.train()
    rows = []
    for _ in range(WARM + count):
        batch = next(same)
        loading, images = timed(lambda: next(given))
        step, _ = timed(lambda images=images: ours._step(images))
        reference, _ = timed(lambda batch=batch: reference_step(theirs, update, *batch))
        rows.append((loading, step, reference))
    return figures(rows[WARM:])


def reference_step(model: nn.Module, update: torch.optim.Optimizer, images: Any, targets: Any) -> float:
    """One iteration of torchvision's `train_one_epoch`, without its logging."""
    losses = sum(model(list(images), [dict(target) for target in targets]).values())
    value = losses.item()
    update.zero_grad()
    losses.backward()
    update.step()
    return value


def figures(rows: list[tuple[Any, Any, Any]]) -> dict[str, Any]:
    """Medians by processor and wall time; a row is loading, our step and the reference's."""
    found: dict[str, Any] = {"step": {}, "loader": {}}
    for place, clock in enumerate(("cpu", "wall")):
        loading, step, reference = ([each[place] for each in column] for column in zip(*rows, strict=True))
        ours = [a + b for a, b in zip(loading, step, strict=True)]
        found["step"] |= {
            f"{clock}_ours": statistics.median(ours),
            f"{clock}_reference": statistics.median(reference),
            f"{clock}_ratio": statistics.median(a / b for a, b in zip(ours, reference, strict=True)),
            f"{clock}_ratio_without_loader": statistics.median(a / b for a, b in zip(step, reference, strict=True)),
        }
        found["loader"][f"{clock}_share"] = statistics.median(a / b for a, b in zip(loading, ours, strict=True))
    return found


def precision(images: int) -> dict[str, Any]:
    """Seconds from answers to AP, on drawn boxes of which two thirds are near a true one."""
    generator = np.random.default_rng(0)
    truth, found = [], []
    for _ in range(images):
        corners = generator.uniform(0, 400, (OBJECTS, 2))
        boxes = np.concatenate([corners, corners + generator.uniform(10, 200, (OBJECTS, 2))], axis=1)
        labels = generator.integers(1, CLASSES + 1, OBJECTS)
        objects = [
            Instance(tuple(map(float, box)), int(label), False, float((box[2] - box[0]) * (box[3] - box[1])))
            for box, label in zip(boxes, labels, strict=True)
        ]
        truth.append(AnnotatedImage(Path("none"), 640, 640, tuple(objects)))
        said = np.tile(boxes, (ANSWERS // OBJECTS, 1)) + generator.normal(0, 8, (ANSWERS, 4))
        said[:, 2:] = np.maximum(said[:, 2:], said[:, :2] + 1)
        found.append(Found(said, np.tile(labels, ANSWERS // OBJECTS), generator.random(ANSWERS)))
    annotations = Annotations("drawn", tuple(truth), tuple(f"class {number}" for number in range(CLASSES)))
    (cpu, wall), scores = timed(lambda: average_precision(annotations, found, "bbox"))
    return {"images": images, "answers": images * ANSWERS, "cpu": cpu, "wall": wall, "AP": scores["AP"]}


def timed(call: Callable[[], Any]) -> tuple[tuple[float, float], Any]:
    """Processor and wall seconds, and what the call gave."""
    cpu, wall = time.process_time(), time.perf_counter()
    result = call()
    return (time.process_time() - cpu, time.perf_counter() - wall), result


def detection(folder: Path, side: int) -> Detection:
    """The task with the sizes of `--schedule small`."""
    settings = DetectorSettings(
        architecture="fpn",
        categories=0,
        side=side,
        longest=2 * side,
        mean=IMAGENET[0],
        std=IMAGENET[1],
        width=64,
        hidden=256,
        rois=64,
        proposals=200,
    )
    train, test = (open_annotations(folder / f"instances_{part}.json") for part in ("train", "test"))
    return Detection("detection", train, test, detector=settings, sides=(side,), batch_size=BATCH)


def backbone() -> nn.Module:
    """A ResNet-18 with weights from seed 0."""
    torch.manual_seed(0)
    return build_backbone("resnet18", image_size=128).module


if __name__ == "__main__":
    main()
