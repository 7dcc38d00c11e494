"""What the entries with lightly's parts share: its loader and the optimiser of its own small-image benchmarks.

Those are SGD with momentum 0.9, weight decay 5e-4, a half-cosine, learning rate 0.06 for 128 images of 32 px or for 256
of 128 px; temperature 0.1 and 4,096 keys for MoCo, with both directions, 0.5 for SimCLR; SimCLR's views, without blur
at 32 px. Their ResNet-18 of 32 px is the network of the track here, without the split BatchNorm of its MoCo.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from benchmarks.speedrun.task import AbsentError, Normalized, Task
from torch import Tensor, nn

try:
    import lightly
    from lightly.data import LightlyDataset
    from lightly.transforms import SimCLRTransform
    from lightly.transforms.utils import IMAGENET_NORMALIZE
except ImportError as error:
    raise AbsentError(f"lightly cannot be imported ({error}): pip install lightly") from error

Loss = Callable[[Tensor, Tensor], Tensor]  # of both views, on the device, in channels-last
SMALL_SIDE = 64  # up to here the settings are those for 32 px
VERSION = lightly.__version__


def trained(task: Task, backbone: nn.Module, learning: Iterable[nn.Parameter], loss: Loss) -> nn.Module:
    """Train for the task's epochs and return the backbone with its normalisation."""
    batch_size = 128 if task.image_size <= SMALL_SIDE else 256
    parameters = list(learning)
    optimizer = torch.optim.SGD(parameters, lr=0.06 * task.rate, momentum=0.9, weight_decay=5e-4)
    steps = 0
    loader = make_loader(task, batch_size)
    total = task.epochs * len(loader)
    for _ in range(task.epochs):
        for (x_0, x_1), *_ in loader:
            views = [x.to(task.device, memory_format=torch.channels_last, non_blocking=True) for x in (x_0, x_1)]
            for group in optimizer.param_groups:
                group["lr"] = 0.03 * task.rate * (1 + math.cos(math.pi * steps / total))
            with torch.autocast(task.device.type, dtype=torch.bfloat16, enabled=task.bf16):
                value = loss(*views)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            steps += 1
    return Normalized(backbone, tuple(IMAGENET_NORMALIZE["mean"]), tuple(IMAGENET_NORMALIZE["std"]))


def make_loader(task: Task, batch_size: int) -> Any:
    """Pairs of SimCLR's views."""
    blur = {"gaussian_blur": 0.0} if task.image_size <= SMALL_SIDE else {}
    dataset = LightlyDataset(str(task.images), transform=SimCLRTransform(input_size=task.image_size, **blur))
    return torch.utils.data.DataLoader(
        dataset,
        batch_size=batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=task.workers,
        persistent_workers=task.workers > 0,
        generator=torch.Generator().manual_seed(task.seed),
    )


def placed(task: Task, *modules: nn.Module) -> None:
    """On the task's device, in channels-last."""
    for module in modules:
        module.to(task.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
