"""Whose checkpoint it is, by its tensors' names, and what they are called in torchvision or timm.

Sources: the MoCo papers' released files, and the documented layouts of lightly, solo-learn and VISSL.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable

from torch import Tensor

from moco.errors import ArchitectureError
from moco.export.foreign import Foreign
from moco.export.load import first_few

Tensors = dict[str, Tensor]


@dataclasses.dataclass(frozen=True)
class Kind:
    """A layout.

    Attributes:
        name: whose it is, for messages.
        prefix: of the encoder that learnt by gradient.
        signs: beginnings of names, one of which gives the layout away together with the prefix; none needed if empty.
        small_stride: stride of a 3x3 stem, where the project has one only; None where it is not known.
    """

    name: str
    prefix: str
    signs: tuple[str, ...] = ()
    small_stride: int | None = None


MOCO_V1_V2 = Kind("MoCo v1/v2 of the authors", "encoder_q.", small_stride=1)
MOCO_V3 = Kind("MoCo v3 of the authors", "base_encoder.")
VISSL = Kind("VISSL", "_feature_blocks.")
PLAIN = Kind("a plain state dict", "")
KINDS = (
    MOCO_V1_V2,
    MOCO_V3,
    VISSL,
    Kind("VISSL", "trunk._feature_blocks."),
    Kind("lightly", "query_backbone.", small_stride=1),
    Kind("lightly", "backbone.", ("projection_head", "backbone_momentum.", "backbone.0.", "backbone.1."), 1),
    Kind("solo-learn", "backbone.", ("projector.", "momentum_backbone.", "classifier.", "momentum_projector."), 1),
    Kind("solo-learn (old)", "encoder.", ("projector.", "momentum_encoder.", "classifier."), 1),
    Kind("a lightly or solo-learn backbone", "backbone.", small_stride=1),
)


@dataclasses.dataclass(frozen=True)
class Recognised:
    """A backbone with its head, taken out of a file.

    Attributes:
        kind: the layout.
        tensors: of the encoder, under torchvision's or timm's names, head included.
        others: what else the file held: first parts of the names, sorted.
    """

    kind: Kind
    tensors: Tensors
    others: tuple[str, ...]


def recognise(foreign: Foreign, *, what: str) -> Recognised:
    """Find the layout and take the encoder that learnt by gradient.

    Raises:
        ArchitectureError: the names belong to no known layout.
    """
    names = list(foreign.tensors)
    for kind in KINDS:
        if _has(names, kind.prefix) and (not kind.signs or any(_has(names, sign) for sign in kind.signs)):
            inside = {
                name.removeprefix(kind.prefix): tensor
                for name, tensor in foreign.tensors.items()
                if name.startswith(kind.prefix)
            }
            others = {_first(name) for name in names if not name.startswith(kind.prefix)}
            return Recognised(kind, _as_torchvision(inside), tuple(sorted(others)))
    tensors = _as_torchvision(dict(foreign.tensors))
    if foreign.vissl:
        return Recognised(VISSL, tensors, ())
    if not ({"conv1.weight", "cls_token"} & set(tensors)):
        raise ArchitectureError(
            f"{what} is none of the known layouts (its keys: {first_few(names)}): name the architecture "
            "(--architecture) if they are those of a torchvision or timm model"
        )
    return Recognised(PLAIN, tensors, ())


def _has(names: Iterable[str], prefix: str) -> bool:
    return any(name.startswith(prefix) for name in names)


def _first(name: str) -> str:
    return name.partition(".")[0]


def _as_torchvision(tensors: Tensors) -> Tensors:
    """Names of a ResNet that was cut into an nn.Sequential (lightly, the authors' CIFAR demonstration) put right.

    Its children with tensors are, in order: conv1, bn1, layer1 to layer4, and fc where it was kept.
    """
    tensors = {name.removeprefix("net."): tensor for name, tensor in tensors.items()}
    places = sorted({int(_first(name)) for name in tensors if _first(name).isdigit()})
    if places and len(places) in (6, 7) and all(_first(name).isdigit() for name in tensors):
        parts = dict(zip(places, ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "fc"), strict=False))
        tensors = {f"{parts[int(_first(name))]}.{name.partition('.')[2]}": tensor for name, tensor in tensors.items()}
    return {re.sub(r"(layer\d\.\d+)\.shortcut\.", r"\1.downsample.", name): value for name, value in tensors.items()}
