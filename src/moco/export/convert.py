"""A checkpoint of another project as a trained backbone of ours: recognised, renamed, complete but for the head."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import cast

import torch

from moco.data.preprocess import Preprocessing
from moco.data.views import CIFAR, IMAGENET
from moco.encoder import build_backbone
from moco.encoder.stem import STANDARD, Stem
from moco.errors import ArchitectureError
from moco.export.foreign import Foreign
from moco.export.infer import Architecture, infer
from moco.export.layouts import PLAIN, Recognised, Tensors, recognise
from moco.export.load import Pretrained, fill

_HEADS = {"fc", "head", "heads", "head_dist", "classifier", "last_linear"}  # first parts of classifiers' names
_COUNTER = "num_batches_tracked"  # BatchNorm's; files older than PyTorch 0.4.1 lack it, and inference ignores it


@dataclasses.dataclass(frozen=True)
class Converted:
    """A backbone and what became of the rest of its file.

    Attributes:
        model: the backbone.
        kind: whose checkpoint it was.
        head: tensors of the head, which were left out.
        others: what else the file held and was left out: first parts of the names.
    """

    model: Pretrained
    kind: str
    head: tuple[str, ...]
    others: tuple[str, ...]


def convert(
    foreign: Foreign,
    file: Path,
    *,
    architecture: str | None,
    stem: str | None,
    image_size: int | None,
    num_heads: int | None,
) -> Converted:
    """Build the architecture that the tensors are of and fill it.

    Args:
        foreign: what the file holds.
        file: its name, for messages.
        architecture, stem, image_size, num_heads: as stated by the user; None where the file shall tell.

    Raises:
        ArchitectureError: an unknown layout or architecture, or keys other than the head's are missing or left over.
    """
    if architecture is None:
        recognised = recognise(foreign, what=str(file))
        chosen = infer(recognised, num_heads=num_heads, stem=stem)
        _agree(foreign.arch, chosen, file)
    else:
        recognised = _stated_layout(foreign, file)
        chosen = Architecture(architecture, stem or "standard", 224, num_heads)
    side = chosen.image_size if image_size is None else image_size
    with torch.random.fork_rng(devices=[]):
        built = build_backbone(chosen.name, image_size=side, stem=cast(Stem, chosen.stem), num_heads=chosen.num_heads)
    expected = built.module.state_dict()
    tensors = dict(recognised.tensors)
    head = [name for name in tensors if name not in expected and name.partition(".")[0] in _HEADS]
    for name in head:
        del tensors[name]
    for name, value in expected.items():
        if name.endswith(_COUNTER):
            tensors.setdefault(name, torch.zeros_like(value))
    fill(built.module, tensors, what=f"{file} ({recognised.kind.name}) for {chosen.name}, stem {chosen.stem}")
    model = Pretrained(built, _usual(side, chosen.stem)).eval()
    return Converted(model, recognised.kind.name, tuple(head), recognised.others)


def _stated_layout(foreign: Foreign, file: Path) -> Recognised:
    """As `recognise`, but plain tensors of any architecture pass."""
    try:
        return recognise(foreign, what=str(file))
    except ArchitectureError:
        return Recognised(PLAIN, cast(Tensors, dict(foreign.tensors)), ())


def _agree(stated: str | None, chosen: Architecture, file: Path) -> None:
    found = chosen.name.rpartition("/")[2]
    if stated is not None and stated.startswith(("resnet", "resnext", "wide_resnet")) and stated != found:
        raise ArchitectureError(f"{file} says it is {stated}, its tensors are those of {found}: name --architecture")


def _usual(size: int, stem: str) -> Preprocessing:
    """The normalisation that goes with the stem: ImageNet's, or CIFAR's for 3x3 stems (1911.05722; its CIFAR demo)."""
    return Preprocessing(size, *(IMAGENET if stem == STANDARD else CIFAR))
