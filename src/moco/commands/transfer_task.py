"""From the options of `moco.transfer` to a task, its schedule and its initialisations."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from moco.atomic import reason
from moco.commands.transfer_device import check_ranks, on_ranks, usable_device, usable_precision
from moco.commands.transfer_semantic import semantic_task
from moco.commands.transfer_weights import initialisations, open_weights
from moco.contrast.collective import all_gather_cat, rank, world_size
from moco.data.folder_lock import locked
from moco.data.workers import cores
from moco.errors import ConfigError, DataError, RunError
from moco.evaluation.network import Model
from moco.printable import printable
from moco.transfer.annotations import open_annotations
from moco.transfer.dense_pose.densepose import DensePose
from moco.transfer.dense_pose.geodesic import read_geodesics
from moco.transfer.detection.detection import Detection
from moco.transfer.detection.federated import DETECTIONS, read_federation
from moco.transfer.detection.lvis import Lvis
from moco.transfer.fine_tuning.comparison import Comparison, Initialisation, compare, together
from moco.transfer.fine_tuning.limit import Limit
from moco.transfer.fine_tuning.options import Options
from moco.transfer.fine_tuning.scale import CITYSCAPES, CITYSCAPES_SCHEDULES, DENSEPOSE, LVIS, SEMANTIC, Scale, scale_of
from moco.transfer.label_maps.cityscapes import is_cityscapes, is_split
from moco.transfer.networks.detector import DetectorSettings
from moco.transfer.semantic.segmentation import SemanticSegmentation

_GPU_WORKERS = 8
Task = Detection | Lvis | DensePose | SemanticSegmentation


@dataclasses.dataclass(frozen=True)
class _Job:
    """A task, its scale, and the folder in `out` for its comparison ("" for `out` itself)."""

    task: Task
    scale: Scale
    folder: str


def run_comparison(given: Mapping[str, Any]) -> Comparison | None:
    """Do what the options say; see `moco.transfer`. None on ranks other than the first."""
    limit = Limit(given["minutes"])
    options = {name: given[name] for name in ("preprocessing", "allow_factory")}
    model, device = open_weights(given["backbone"], **options), usable_device(given["device"])
    how: dict[str, Any] = {"precision": usable_precision(given["precision"], device), "limit": limit}
    how |= {name: given[name] for name in ("score_every", "quiet")}
    jobs = _jobs(given, model, device)
    for job in jobs:
        job.task.model(model.random(given["seed"]) if "random" in given["initialisations"] else model.backbone.module)
    check_ranks(given["devices"], device, [job.scale.schedule.batch_size for job in jobs])
    out = Path(given["out"]).expanduser()
    with on_ranks(given["devices"], device) as own, _taken(out):
        found, left_out = _initialised(given, model, own, out)
        how["device"] = own
        try:
            done = [_compared(job, found, left_out, given, Options(**how, precise=job.scale.precise)) for job in jobs]
        except KeyboardInterrupt:
            if rank() == 0:
                print("the same command goes on from here", file=sys.stderr)
            raise
    first, *others = (each for each in done if each is not None) if rank() == 0 else [None]
    return together(first, *others, out=out) if first is not None and others else first


def _initialised(
    given: Mapping[str, Any], model: Model, device: str, out: Path
) -> tuple[list[Initialisation], list[str]]:
    """The initialisations; supervised weights are trained by the first rank, and read by the others."""

    def meet() -> None:
        all_gather_cat(torch.zeros(1, device=device if world_size() > 1 else "cpu"))

    if rank() > 0:
        meet()
    names, quiet = tuple(given["initialisations"]), given["quiet"] or rank() > 0
    options = {"labelled": given["labelled"], "device": device, "out": out, "seed": given["seed"], "quiet": quiet}
    found = initialisations(model, names, **options)
    if rank() == 0:
        meet()
    return found


def _compared(
    job: _Job, found: list[Initialisation], left_out: list[str], given: Mapping[str, Any], how: Options
) -> Comparison | None:
    notes = [*job.task.notes, *left_out]
    if not given["quiet"] and rank() == 0:
        print(*map(printable, notes), sep="\n", end="\n" if notes else "", file=sys.stderr)
    seeds = range(given["seed"], given["seed"] + given["seeds"])
    out = Path(given["out"]).expanduser() / job.folder
    return compare(job.task, found, schedule=job.scale.schedule, seeds=seeds, options=how, out=out, notes=notes)


def _jobs(given: Mapping[str, Any], model: Model, device: str) -> list[_Job]:
    """One; of Cityscapes its two kinds of segmentation, each with its part of the schedule, in a folder of its name."""
    if given["task"] != CITYSCAPES:
        scale = chosen_scale(given)
        return [_Job(_task(given, model, scale, device), scale, "")]
    if given["schedule"] not in CITYSCAPES_SCHEDULES:
        known = ", ".join(CITYSCAPES_SCHEDULES)
        raise ConfigError(f"schedule={given['schedule']!r} for cityscapes: choose one of {known}")
    for name in ("train", "test"):
        if not is_cityscapes(Path(given[name]).expanduser()):
            raise DataError(f"{name}={given[name]} is no Cityscapes folder: need one with leftImg8bit/ and gtFine/")
    if given["test"] == given["train"] and is_split(Path(given["train"]).expanduser()):
        raise DataError(f"{given['train']} is one split, to learn from and to be tested on: name another with --test")
    jobs = []
    for task, schedule in CITYSCAPES_SCHEDULES[given["schedule"]].items():
        part = {**given, "task": task, "schedule": schedule}
        scale = chosen_scale(part)
        jobs.append(_Job(_task(part, model, scale, device), scale, task))
    return jobs


def chosen_scale(given: Mapping[str, Any]) -> Scale:
    """The scale of the schedule with what the user states instead."""
    scale = scale_of(given["schedule"], given["task"])
    schedule = scale.schedule
    if given["batch_size"] is not None:
        schedule = schedule.for_batch(given["batch_size"])
    if given["learning_rate"] is not None:
        schedule = dataclasses.replace(schedule, learning_rate=given["learning_rate"])
    if given["iterations"] is not None:
        schedule = schedule.scaled(given["iterations"])
    changes: dict[str, Any] = {"schedule": schedule}
    if given["image_size"] is not None:
        side = given["image_size"]
        changes |= {"sides": (side,), "longest": max(2 * side, side * scale.longest // scale.sides[-1])}
    changes |= {name: given[name] for name in ("width", "rois") if given[name] is not None}
    return dataclasses.replace(scale, **changes)


def _task(given: Mapping[str, Any], model: Model, scale: Scale, device: str) -> Task:
    workers = given["workers"]
    if workers is None:
        workers = min(_GPU_WORKERS, cores()) if device.startswith("cuda") else 0
    if given["task"] == SEMANTIC:
        return semantic_task(given, model, scale, workers=workers)
    if given["task"] == LVIS:
        federation = read_federation(given["test"])
        return Lvis(_detection(given, model, scale, workers), federation)
    if given["task"] == DENSEPOSE:
        geodesics = None if given["geodesics"] is None else read_geodesics(given["geodesics"])
        return DensePose(_detection(given, model, scale, workers), geodesics)
    return _detection(given, model, scale, workers)


def _detection(given: Mapping[str, Any], model: Model, scale: Scale, workers: int) -> Detection:
    detector = DetectorSettings(
        architecture=given["architecture"],
        categories=0,  # the annotations say
        side=scale.sides[-1],
        longest=scale.longest,
        mean=model.preprocess.mean,
        std=model.preprocess.std,
        width=scale.width,
        hidden=4 * scale.width,
        rois=scale.rois,
        proposals=scale.proposals,
        detections=DETECTIONS if given["task"] == LVIS else 100,
    )
    return Detection(
        "instance-segmentation" if given["task"] == LVIS else given["task"],
        open_annotations(given["train"], images=given["train_images"]),
        open_annotations(given["test"], images=given["test_images"], use="test"),
        detector=detector,
        sides=scale.sides,
        batch_size=scale.schedule.batch_size,
        workers=workers,
    )


@contextlib.contextmanager
def _taken(out: Path) -> Any:
    """The folder of the comparison, made and locked against other processes, by the first rank for all."""
    if rank() > 0:
        yield
        return
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot use {out} as output folder: {reason(error)}") from error
    lock = locked(out, "transfer: wait for it or choose another --out")
    try:
        yield
    finally:
        lock.close()
        (out / ".lock").unlink(missing_ok=True)
