"""detectron2: a .pth file {model, __author__, matching_heuristics, config} under the names of its ResNet backbone.

detectron2 is not needed: the file is read back by a forward pass written from its documented layout, which knows
nothing of torchvision's names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from moco.export.proof import Reader
from moco.export.resnet_names import to_detectron2
from moco.export.subject import Subject
from moco.version import __version__

Tensors = dict[str, Tensor]


def refusal(subject: Subject) -> str | None:
    """Why not: detectron2's backbone is a ResNet with the standard stem."""
    if subject.resnet is None:
        return f"detectron2's backbone is a ResNet or ResNeXt, not {subject.model.architecture}"
    return subject.stem_refusal()


def write(subject: Subject, path: Path) -> None:
    """Write the file, for MODEL.WEIGHTS; `config` holds the options that must be set beside it."""
    tensors = {to_detectron2(name): tensor for name, tensor in subject.tensors().items()}
    content = {
        "model": tensors,
        "__author__": f"moco {__version__}",
        "matching_heuristics": True,
        "config": options(subject),
        "preprocessing": subject.model.preprocess.as_dict(),  # not for detectron2: moco import reads these two back
        "image_size": subject.model.image_size,
    }
    torch.save(content, path)


def options(subject: Subject) -> dict[str, Any]:
    """detectron2's options for these weights; it takes pixels from 0 to 255."""
    known, preprocess = subject.resnet, subject.model.preprocess
    assert known is not None
    return {
        "INPUT.FORMAT": "RGB",
        "MODEL.PIXEL_MEAN": [255 * value for value in preprocess.mean],
        "MODEL.PIXEL_STD": [255 * value for value in preprocess.std],
        "MODEL.RESNETS.DEPTH": known.depth,
        "MODEL.RESNETS.NUM_GROUPS": known.groups,
        "MODEL.RESNETS.WIDTH_PER_GROUP": known.width_per_group,
        "MODEL.RESNETS.RES2_OUT_CHANNELS": known.widths[0],
        "MODEL.RESNETS.STRIDE_IN_1X1": False,
    }


def read(path: Path) -> Reader:
    """Run the ResNet that the file's names and options describe."""
    content = torch.load(path, map_location="cpu", weights_only=True)
    tensors, config = content["model"], content["config"]
    groups = config["MODEL.RESNETS.NUM_GROUPS"]

    def features(images: Tensor) -> Tensor:
        x = _conv(tensors, "stem.conv1", images, stride=2).relu()
        x = functional.max_pool2d(x, kernel_size=3, stride=2, padding=1)
        for stage in ("res2", "res3", "res4", "res5"):
            number = 0
            while f"{stage}.{number}.conv1.weight" in tensors:
                x = _block(tensors, f"{stage}.{number}", x, 2 if number == 0 and stage != "res2" else 1, groups)
                number += 1
        return x.mean(dim=(2, 3))

    return Reader(features)


def _block(tensors: Tensors, name: str, x: Tensor, stride: int, groups: int) -> Tensor:
    """Bottleneck (its stride in the 3x3 convolution) or basic block, with a projected shortcut where there is one."""
    shortcut = _conv(tensors, f"{name}.shortcut", x, stride=stride) if f"{name}.shortcut.weight" in tensors else x
    if f"{name}.conv3.weight" in tensors:
        x = _conv(tensors, f"{name}.conv1", x).relu()
        x = _conv(tensors, f"{name}.conv2", x, stride=stride, groups=groups).relu()
        x = _conv(tensors, f"{name}.conv3", x)
    else:
        x = _conv(tensors, f"{name}.conv1", x, stride=stride).relu()
        x = _conv(tensors, f"{name}.conv2", x)
    return (x + shortcut).relu()


def _conv(tensors: Tensors, name: str, x: Tensor, *, stride: int = 1, groups: int = 1) -> Tensor:
    """Convolution that keeps the size but for its stride, then its normalisation with stored statistics."""
    weight = tensors[f"{name}.weight"]
    x = functional.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2, groups=groups)
    mean, variance, scale, shift = (
        tensors[f"{name}.norm.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
    )
    return functional.batch_norm(x, mean, variance, scale, shift)
