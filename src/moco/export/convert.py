"""A checkpoint of another project as a trained backbone of ours: recognised, renamed, complete but for the head."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch

from moco.data.preprocess import Preprocessing
from moco.encoder import build_backbone
from moco.encoder.stem import STANDARD, Stem
from moco.errors import ArchitectureError
from moco.export.foreign import Foreign, Stated
from moco.export.infer import Architecture, infer, stem_of
from moco.export.layouts import PLAIN, Recognised, recognise
from moco.export.load import Pretrained, fill
from moco.normalization import CIFAR, IMAGENET
from moco.sizes import Size

# First parts of classifiers' names.
_HEADS = {"fc", "head", "heads", "head_dist", "classifier", "last_linear", "linear"}
_COUNTER = "num_batches_tracked"  # BatchNorm's; files older than PyTorch 0.4.1 lack it, and inference ignores it


def convert(
    foreign: Foreign,
    file: Path,
    *,
    architecture: str | None,
    stem: str | None,
    image_size: Size | None,
    num_heads: int | None,
) -> tuple[Pretrained, Recognised, tuple[str, ...]]:
    """The backbone, what the file was recognised as, and the names of the head's tensors, which are left out.

    `architecture`, `stem`, `image_size` and `num_heads` are the user's; None where the file shall tell.

    Raises:
        ArchitectureError: an unknown layout or architecture, or keys other than the head's are missing or left over.
    """
    recognised, chosen = _told(foreign, file, architecture, stem, num_heads, image_size)
    side = chosen.image_size if image_size is None else image_size
    with torch.random.fork_rng(devices=[]):
        built = build_backbone(chosen.name, image_size=side, stem=cast(Stem, chosen.stem), num_heads=chosen.num_heads)
    if chosen.pool not in (None, pool := _pool(built.module)):
        raise ArchitectureError(f"{file}: {chosen.name} has global_pool={chosen.pool!r}: only {pool!r} can be built")
    expected = built.module.state_dict()
    tensors = dict(recognised.tensors)
    head = [name for name in tensors if name not in expected and name.partition(".")[0] in _HEADS]
    for name in head:
        del tensors[name]
    for name, value in expected.items():
        if name.endswith(_COUNTER):
            tensors.setdefault(name, torch.zeros_like(value))
    fill(built.module, tensors, what=f"{file} ({recognised.kind.name}) for {chosen.name}, stem {chosen.stem}")
    model = Pretrained(built, _preprocessing(foreign.stated, image_size, side, chosen.stem)).eval()
    return model, recognised, tuple(head)


def _told(
    foreign: Foreign,
    file: Path,
    architecture: str | None,
    stem: str | None,
    num_heads: int | None,
    image_size: Size | None,
) -> tuple[Recognised, Architecture]:
    """What the file is, and the architecture that it tells or the user names."""
    if architecture is None:
        recognised = recognise(foreign, what=str(file))
        chosen = infer(recognised, foreign, num_heads=num_heads, stem=stem, image_size=image_size)
        found, said = chosen.name.rpartition("/")[2], foreign.arch or ""
        if said.startswith(("resnet", "resnext", "wide_resnet")) and said != found:
            raise ArchitectureError(f"{file} says it is {said}, its tensors are those of {found}: name --architecture")
    else:
        try:
            recognised = recognise(foreign, what=str(file))
        except ArchitectureError:  # plain tensors of any architecture
            recognised = Recognised(PLAIN, dict(foreign.tensors))
        if ":" not in architecture and {"conv1.weight", "layer1.0.conv1.weight"} <= recognised.tensors.keys():
            stem = stem_of(recognised, foreign, stem)
        chosen = Architecture(architecture, stem or STANDARD, 224, num_heads)
    return recognised, chosen


def _pool(module: Any) -> str | None:
    """How a model of timm's pools its features: by its name for it."""
    layer = getattr(module, "global_pool", None) or getattr(getattr(module, "head", None), "global_pool", None)
    return getattr(layer, "pool_type", layer)


def _preprocessing(stated: Stated | None, image_size: Size | None, built: Size, stem: str) -> Preprocessing:
    """What the file states; else the normalisation that goes with the stem (1911.05722, its CIFAR demonstration)."""
    if stated is None:
        return Preprocessing(built, *(IMAGENET if stem == STANDARD else CIFAR))
    return Preprocessing(image_size or stated.size or built, stated.mean, stated.std)
