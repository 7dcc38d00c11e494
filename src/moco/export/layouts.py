"""Whose checkpoint it is, by its tensors' names, and what they are called in torchvision or timm.

Sources: the files that the MoCo, SimSiam and DINO authors released, and the module structure that lightly, solo-learn,
VISSL, mmselfsup and transformers publish.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable

from torch import Tensor

from moco.encoder.stem import LINEAR, PADDED
from moco.errors import ArchitectureError
from moco.export.foreign import Foreign
from moco.export.reading import first_few
from moco.export.resnet_names import to_detectron2, to_huggingface, torchvision_names_of

Tensors = dict[str, Tensor]


@dataclasses.dataclass(frozen=True)
class Kind:
    """A layout: whose it is, and the prefix of its encoder (of several that which learnt by gradient).

    `signs`: beginnings of other names, all of them needed. `place`: where the tensors lie, if that says whose they are.
    `stem`: of its ResNets with a 3x3 first convolution, if there is one only. `rename`: from torchvision's
    names to its own, if they differ.
    """

    name: str
    prefix: str
    signs: tuple[str, ...] = ()
    place: str = ""
    stem: str | None = None
    rename: Callable[[str], str] | None = None


MOCO_V1_V2 = Kind("MoCo v1/v2 of the authors", "encoder_q.")
MOCO_V3 = Kind("MoCo v3 of the authors", "base_encoder.")
MMSELFSUP = Kind("mmselfsup", "backbone.", ("neck.",))
DINO = Kind("DINO of the authors (teacher)", "backbone.", place="DINO")
PLAIN = Kind("a plain state dict", "")
KINDS = (
    Kind("detectron2", "", place="detectron2", rename=to_detectron2),
    DINO,
    Kind("transformers", "resnet.", ("resnet.embedder.embedder.",), rename=to_huggingface),
    Kind("transformers", "", ("embedder.embedder.", "encoder.stages."), rename=to_huggingface),
    MMSELFSUP,
    Kind("MoCo v2 of the authors, for CIFAR", "encoder_q.net.", stem="3x3-stride1"),
    MOCO_V1_V2,
    MOCO_V3,
    Kind("VISSL", "_feature_blocks."),
    Kind("VISSL", "trunk._feature_blocks."),
    Kind("VISSL", "", place="VISSL"),
    Kind("lightly", "query_backbone."),
    Kind("lightly (student)", "student_backbone."),
    Kind("lightly", "backbone.", ("projection_head",)),
    Kind("lightly", "backbone.", ("backbone.0.",)),
    Kind("solo-learn", "backbone.", ("projector.", "classifier."), stem=PADDED),
    Kind("solo-learn", "backbone.", ("momentum_backbone.",)),
    Kind("solo-learn (old)", "encoder.", ("projector.", "classifier."), stem=PADDED),
    Kind("SimSiam of the authors", "encoder.", ("predictor.", "encoder.fc.")),
    Kind("BYOL of byol-pytorch", "online_encoder.net."),
    Kind("a sequence of unknown origin", "net."),
    Kind("a backbone of unknown origin", "backbone."),
)


@dataclasses.dataclass(frozen=True)
class Recognised:
    """An encoder with its head, taken out of a file of this kind: `tensors` under torchvision's or timm's names.

    `others`: what else the file held: first parts of the names, sorted. `stem`: where the names leave no doubt.
    """

    kind: Kind
    tensors: Tensors
    others: tuple[str, ...] = ()
    stem: str | None = None


def recognise(foreign: Foreign, *, what: str) -> Recognised:
    """Find the layout and take its encoder.

    Raises:
        ArchitectureError: the names belong to no known layout, or to a network that none of ours is equal to.
    """
    names = list(foreign.tensors)
    kind = next((kind for kind in KINDS if _fits(kind, foreign.place, names)), PLAIN)
    inside = {n.removeprefix(kind.prefix): value for n, value in foreign.tensors.items() if n.startswith(kind.prefix)}
    if kind.rename:
        known = torchvision_names_of(kind.rename)
        inside = {known.get(name, name): value for name, value in inside.items()}
    tensors, stem = _as_torchvision(inside, what)
    named = foreign.image_size is not None or "architecture" in foreign.config
    if kind is PLAIN and not named and not {"conv1.weight", "cls_token"} & set(tensors):
        raise ArchitectureError(
            f"{what} is none of the known layouts (its keys: {first_few(names)}): name the architecture "
            "(--architecture) if they are those of a torchvision or timm model"
        )
    others = sorted({_first(name) for name in names if not name.startswith(kind.prefix)})
    return Recognised(kind, _joined(tensors), tuple(others), stem)


def _fits(kind: Kind, place: str, names: Iterable[str]) -> bool:
    beginnings = [kind.prefix, *kind.signs]
    return kind.place in ("", place) and all(any(name.startswith(start) for name in names) for start in beginnings)


def _first(name: str) -> str:
    return name.partition(".")[0]


def _as_torchvision(tensors: Tensors, what: str) -> tuple[Tensors, str | None]:
    """Tensors under torchvision's names, and the stem where the names leave no other.

    A ResNet cut into an nn.Sequential (lightly, the MoCo authors' CIFAR demonstration) has numbers for names. Its
    children with tensors are, in order: conv1, bn1, layer1 to layer4, and fc where it was kept. The numbers left out
    between bn1 and layer1 are ReLU and max-pooling: lightly's own ResNet has neither.
    """
    shortcut = any(".shortcut." in name for name in tensors)  # lightly's ResNets, all of them with a stem of stride 1
    tensors = {re.sub(r"(layer\d\.\d+|^\d+\.\d+)\.shortcut\.", r"\1.downsample.", n): v for n, v in tensors.items()}
    places = sorted({int(_first(name)) for name in tensors if _first(name).isdigit()})
    consecutive = len(places) in (6, 7) and places[:2] == [0, 1] and places[5] - places[2] == 3
    if not consecutive or not all(_first(name).isdigit() for name in tensors):
        return tensors, "3x3-stride1" if shortcut else None
    parts = dict(zip(places, ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "fc"), strict=False))
    tensors = {f"{parts[int(_first(name))]}.{name.partition('.')[2]}": tensor for name, tensor in tensors.items()}
    between, kernel = places[2] - 2, tensors["conv1.weight"].shape[-1]
    if between == 0 and kernel == 3 and shortcut:
        return tensors, LINEAR
    if between == 2 or (between == 1 and kernel == 3):
        return tensors, None
    raise ArchitectureError(
        f"{what} is a ResNet in a sequence with {between} layers from bn1 to layer1, expected 2 (ReLU, max-pooling) "
        f"and a {kernel}x{kernel} stem: build it by a function of yours (--architecture package.module:factory)"
    )


def _joined(tensors: Tensors) -> Tensors:
    """Statistics of a BatchNorm in several parts (lightly's SplitBatchNorm) averaged, as it does in evaluation."""
    joined = dict(tensors)
    for name, value in tensors.items():
        module, _, last = name.rpartition(".")
        width = len(tensors.get(f"{module}.weight", value)) if value.ndim == 1 else 0
        if last in ("running_mean", "running_var") and width and len(value) > width and len(value) % width == 0:
            joined[name] = value.view(-1, width).mean(0)
    return joined
