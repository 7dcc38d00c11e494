"""ResNets under other projects' tensor names. Source: the projects' model definitions; torchvision's are ours.

Depth, groups and width per group identify a ResNet, ResNeXt or wide ResNet (1512.03385, 1611.05431, 1605.07146).
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable, Iterator

_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
_BLOCK = re.compile(r"layer(\d)\.(\d+)\.(?:(conv|bn)(\d)|downsample\.([01]))\.(\w+)")


@dataclasses.dataclass(frozen=True)
class ResNet:
    """What identifies it: depth (18 to 152), groups of the 3x3 convolutions, channels of each in the first stage."""

    depth: int
    groups: int = 1
    width_per_group: int = 64

    @property
    def bottleneck(self) -> bool:
        """Whether its blocks have three convolutions."""
        return self.depth >= 50

    @property
    def blocks(self) -> tuple[int, ...]:
        """Number of blocks in each of the four stages."""
        return _BLOCKS[self.depth]

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels that each stage gives."""
        return tuple((256 if self.bottleneck else 64) << stage for stage in range(4))


RESNETS = {
    "resnet18": ResNet(18),
    "resnet34": ResNet(34),
    "resnet50": ResNet(50),
    "resnet101": ResNet(101),
    "resnet152": ResNet(152),
    "resnext50_32x4d": ResNet(50, 32, 4),
    "resnext101_32x8d": ResNet(101, 32, 8),
    "resnext101_64x4d": ResNet(101, 64, 4),
    "wide_resnet50_2": ResNet(50, 1, 128),
    "wide_resnet101_2": ResNet(101, 1, 128),
}


def to_huggingface(name: str) -> str:
    """A tensor's name in transformers' ResNetModel."""
    if not name.startswith("layer"):
        module, _, tensor = name.partition(".")
        return f"embedder.embedder.{'convolution' if module == 'conv1' else 'normalization'}.{tensor}"
    stage, block, kind, number, shortcut, tensor = _parts(name)
    part = f"layer.{int(number) - 1}" if shortcut is None else "shortcut"
    layer = "convolution" if kind == "conv" or shortcut == "0" else "normalization"
    return f"encoder.stages.{int(stage) - 1}.layers.{block}.{part}.{layer}.{tensor}"


def to_detectron2(name: str) -> str:
    """A tensor's name in detectron2's ResNet backbone, without a prefix: its checkpointer matches by suffix."""
    if not name.startswith("layer"):
        module, _, tensor = name.partition(".")
        return f"stem.conv1.{tensor}" if module == "conv1" else f"stem.conv1.norm.{tensor}"
    stage, block, kind, number, shortcut, tensor = _parts(name)
    part = f"conv{number}" if shortcut is None else "shortcut"
    norm = "norm." if kind == "bn" or shortcut == "1" else ""
    return f"res{int(stage) + 1}.{block}.{part}.{norm}{tensor}"


def torchvision_names_of(rename: Callable[[str], str]) -> dict[str, str]:
    """torchvision's name for each name that `rename`, one of the above, gives."""
    return {rename(name): name for name in _names()}


def _names() -> Iterator[str]:
    """The names of a ResNet-152, and so of every other ResNet."""
    prefixes = (f"layer{stage}.{block}." for stage, block in itertools.product(range(1, 5), range(36)))
    pairs = (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3"), ("downsample.0", "downsample.1"))
    for prefix, (convolution, norm) in [("", pairs[0]), *itertools.product(prefixes, pairs)]:
        yield f"{prefix}{convolution}.weight"
        for tensor in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            yield f"{prefix}{norm}.{tensor}"


def _parts(name: str) -> tuple[str, ...]:
    """Stage, block, conv or bn, its number, place in the shortcut, tensor."""
    match = _BLOCK.fullmatch(name)
    assert match is not None, name
    return match.groups()
