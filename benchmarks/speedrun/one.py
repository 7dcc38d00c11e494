"""One run of one entry, in a process of its own: `python -m benchmarks.speedrun.one JOB` prints what came of it."""

from __future__ import annotations

import dataclasses
import importlib
import json
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.speedrun.task import AbsentError, Task
from torch import Tensor, nn

from moco.evaluation.features import extract_features
from moco.evaluation.knn import knn_accuracy
from moco.recipes import configure
from moco.training.cost import counted, measured_peak
from moco.training.device import settled

NEIGHBOURS, KNN_TEMPERATURE, BATCH = 20, 0.07, 250


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """What one run is; a process gets it as JSON.

    Attributes:
        track, entry, epochs, seed, rate, image_size, backbone, accelerator: see `Task` and `Track`.
        data: folder that `prepare` has made.
        threads: of tensor operations; None leaves PyTorch's choice.
        workers: see `Task`.
        count: count FLOPs instead of taking the time.
    """

    track: str
    entry: str
    epochs: int
    seed: int
    image_size: int
    backbone: str
    accelerator: str
    data: str
    rate: float = 1.0
    threads: int | None = None
    workers: int = 0
    count: bool = False


def outcome(job: Job) -> dict[str, Any]:
    """Figures of the run: time and accuracy, or FLOPs; or why the entry is absent."""
    if job.threads is not None:
        torch.set_num_threads(job.threads)
    try:
        entry = importlib.import_module(f"benchmarks.speedrun.entries.{job.entry}")
        with tempfile.TemporaryDirectory() as scratch:
            task = make_task(job, Path(scratch))
            torch.manual_seed(job.seed)
            if job.count:
                return {"flops": flops_of(entry.train, task)}
            module, spent = timed(entry.train, task)
    except AbsentError as why:
        return {"absent": str(why)}
    return {**spent, "knn_top1": judge(module, Path(job.data) / "judge.npz", task.device), **peak(task.device)}


def make_task(job: Job, scratch: Path) -> Task:
    """What the entry sees of the job."""
    device = torch.device("cuda", 0) if job.accelerator == "cuda" else torch.device(job.accelerator)
    chosen = {"backbone": job.backbone, "image_size": job.image_size}
    accelerator = "gpu" if job.accelerator == "cuda" else "cpu"
    config, _ = settled(configure("v2", {**chosen, "accelerator": accelerator}))
    return Task(
        track=job.track,
        images=Path(job.data) / "images",
        epochs=job.epochs,
        image_size=job.image_size,
        backbone=job.backbone,
        seed=job.seed,
        rate=job.rate,
        device=device,
        bf16=config.precision == "bf16",
        workers=job.workers,
        scratch=scratch,
    )


def timed(train: Any, task: Task) -> tuple[nn.Module, dict[str, float]]:
    """The module, and wall and CPU seconds from the call to the module, its worker processes' included."""
    cpu, began = cpu_seconds(), time.perf_counter()
    module = train(task)
    if task.device.type == "cuda":
        torch.cuda.synchronize(task.device)
    wall = time.perf_counter() - began
    return module, {"seconds": round(wall, 3), "cpu_seconds": round(cpu_seconds() - cpu, 3)}


def flops_of(train: Any, task: Task) -> int:
    """All FLOPs of a run in this process, evaluations that it makes included; compiled parts run plainly."""
    for bf16 in (False, True):  # `moco.pretrain` measures the device with matrix products, which are no part of it
        measured_peak(task.device, torch.get_num_threads(), bf16=bf16)
    with torch.compiler.set_stance("force_eager"), counted() as counter:
        train(task)
    return counter.get_total_flops()


def cpu_seconds() -> float:
    """CPU time of this process, and of those of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def peak(device: torch.device) -> dict[str, int]:
    """Bytes of GPU memory at most, if there is one."""
    return {"gpu_bytes": torch.cuda.max_memory_allocated(device)} if device.type == "cuda" else {}


def judge(module: nn.Module, file: Path, device: torch.device) -> float:
    """20-NN top-1 accuracy of the test images among the training images, 0 to 1: one centre crop each, in fp32."""
    module = module.to(device).float()
    with np.load(file) as arrays:
        train, test = (extract_features(module, _batches(arrays[part])) for part in ("train", "test"))
        labels = [torch.from_numpy(arrays[f"{part}_labels"]) for part in ("train", "test")]
    options: dict[str, Any] = {"num_neighbors": NEIGHBOURS, "knn_temperature": KNN_TEMPERATURE}
    return round(knn_accuracy(train, labels[0], test, labels[1], **options), 5)


def _batches(images_NHWC: np.ndarray) -> Iterator[Tensor]:
    """Images in 0 to 1, (n, 3, H, W)."""
    for part in torch.split(torch.from_numpy(images_NHWC), BATCH):
        yield part.permute(0, 3, 1, 2).float() / 255


def main() -> None:
    """Print one line of JSON."""
    print(json.dumps(outcome(Job(**json.loads(sys.argv[1])))))


if __name__ == "__main__":
    main()
