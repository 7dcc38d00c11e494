"""Fine-tuning on several ranks beside one process with the whole batch.

W: ranks
"""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from moco.contrast.collective import all_gather_cat, rank
from moco.contrast.joint_batchnorm import join_batchnorm
from moco.encoder import build_backbone
from moco.transfer.annotations import open_annotations
from moco.transfer.detection.detection import Detection
from moco.transfer.fine_tuning.loop import FineTuning
from moco.transfer.fine_tuning.options import Options
from moco.transfer.fine_tuning.schedule import Schedule
from moco.transfer.label_maps.reading import open_label_maps
from moco.transfer.semantic.segmentation import SemanticSegmentation
from tests.transfer.drawn import draw_coco, settings
from tests.transfer.label_folders import write_annot

KINDS = ("detection", "c4", "semantic")
ITERATIONS = 3
BATCH = 6  # has halves and thirds
# Enough regions that each image gives the same number of them: a rank's loss is the mean over its own.
SIZES = {"rois": 8, "proposals": 60, "side": 64, "longest": 128}


def fine_tuned(folder: Path, kind: str) -> dict[str, Any]:
    """Losses and weights after a few iterations, and those with which the model is tested.

    Args:
        folder: where images and checkpoint lie, the same for all ranks.
        kind: detection, c4 or semantic.
    """
    task = _task(folder, kind)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        backbone = build_backbone("resnet_tiny", image_size=32).module
    options = Options(precise=2, quiet=True)
    schedule = Schedule(ITERATIONS, 0, (), 0.01, batch_size=BATCH)
    run = FineTuning(task, backbone, schedule=schedule, seed=0, options=options, checkpoint=folder / f"{kind}.pt")
    progress = run.run()
    again = FineTuning(task, backbone, schedule=schedule, seed=0, options=options, checkpoint=folder / f"{kind}.pt")
    return {
        "losses": torch.tensor([loss for _, loss in progress.curve]),
        "state": {name: value.float() for name, value in run.model.state_dict().items()},
        "tested": {name: value.float() for name, value in run.tested().state_dict().items()},
        "figures": len(progress.scores[-1][1]),
        "goes_on_at": again.progress.iteration,
    }


def _task(folder: Path, kind: str) -> Any:
    if rank() == 0:
        draw_coco(folder / "drawn", BATCH)
        write_annot(folder / "maps", BATCH, void=255)
    all_gather_cat(torch.zeros(1))
    if kind == "semantic":
        maps = open_label_maps(str(folder / "maps"), use="train", void=None)
        return SemanticSegmentation(maps, maps, crop=32, batch_size=BATCH)
    images = open_annotations(folder / "drawn" / "instances_train.json")
    detector = settings(architecture="c4" if kind == "c4" else "fpn", **SIZES)
    return Detection("detection", images, images, detector=detector, sides=(SIZES["side"],), batch_size=BATCH)


def stopped_by_one(folder: Path, world: int) -> dict[str, Any]:
    """Ctrl-C reaches the last rank alone, after the first iteration: where each rank stops, and how it goes on."""
    task, step = _task(folder, "semantic"), FineTuning._step

    def run() -> FineTuning:
        torch.manual_seed(0)
        backbone = build_backbone("resnet_tiny", image_size=32).module
        options = Options(precise=2, quiet=True)
        schedule = Schedule(ITERATIONS, 0, (), 0.01, batch_size=BATCH)
        file = folder / "stopped.pt"
        return FineTuning(task, backbone, schedule=schedule, seed=0, options=options, checkpoint=file)

    def interrupted(self: FineTuning, batch: Any) -> None:
        step(self, batch)
        if rank() == world - 1:
            signal.raise_signal(signal.SIGINT)

    FineTuning._step = interrupted  # type: ignore[method-assign]
    first = run()
    try:
        first.run()
    except KeyboardInterrupt:
        pass
    finally:
        FineTuning._step = step  # type: ignore[method-assign]
    second = run()
    second.run()
    return {
        "stopped_at": first.progress.iteration,
        "state": {k: v.float() for k, v in second.model.state_dict().items()},
    }


def uneven_batchnorm(rank: int, world: int) -> dict[str, Tensor]:
    """Output, statistics and gradient of BatchNorm where rank r has r + 1 values of each channel, and the last none."""
    torch.manual_seed(3)
    sizes = [*range(1, world), 0]
    whole = torch.randn(sum(sizes), 2, 3, 3)
    layer = join_batchnorm(nn.BatchNorm2d(2))
    own = whole.split(sizes)[rank].clone().requires_grad_(True)
    (layer(own) ** 3).sum().backward()
    alone, beside = nn.BatchNorm2d(2), whole.clone().requires_grad_(True)
    (alone(beside) ** 3).sum().backward()
    return {
        "gradient": own.grad,
        "expected_gradient": beside.grad.split(sizes)[rank],
        "variance": layer.running_var,
        "expected_variance": alone.running_var,
    }
