"""The initialisations that `moco.transfer` compares: a run's weights, random ones, and supervised ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from moco import atomic
from moco.config_file import read_config
from moco.data.image_batches import PassOrder, crop_passes
from moco.data.preprocess import Preprocessing
from moco.data.skipped import SkippedFiles
from moco.data.source import open_source
from moco.data.views import view_recipe
from moco.encoder import Backbone
from moco.errors import ArchitectureError, ConfigError, DataError, MocoError
from moco.evaluation import finetune
from moco.evaluation.images import LabelledImages, watch
from moco.evaluation.network import Model
from moco.export.load import load, weights_path
from moco.export.reading import run_folder
from moco.recipes import configure
from moco.sizes import size_text
from moco.transfer.fine_tuning.comparison import MOCO, RANDOM, SUPERVISED, Initialisation

if TYPE_CHECKING:
    from moco.export.load import Weights

ALL = (MOCO, RANDOM, SUPERVISED)
_FILE = "supervised.pt"
_LEAST_CLASSES = 2


def open_weights(backbone: Weights, *, preprocessing: Preprocessing | None, allow_factory: bool) -> Model:
    """The backbone that detectors are built around, with its name and how its images go in.

    Raises:
        MocoError: weights that cannot be read.
    """
    loaded = load(backbone, preprocessing=preprocessing, allow_factory=allow_factory)
    known: Any = (loaded.architecture, loaded.stem, loaded.image_size, loaded.channels, loaded.num_heads)
    built, path = Backbone(loaded.backbone, loaded.feature_dim, *known), weights_path(backbone)
    name = loaded.architecture if path is None else str(path)
    return Model(name, built, loaded.preprocess, True, view_recipe(configure("v2", {})))


def initialisations(
    model: Model, wanted: Sequence[str], *, labelled: str | None, device: str, out: Path, seed: int, quiet: bool
) -> tuple[list[Initialisation], list[str]]:
    """Those that are wanted and to be had, MoCo's first, and a note for each that is left out.

    Raises:
        ConfigError: none is wanted, or one of another name.
        ArchitectureError: random weights are wanted and cannot be drawn.
    """
    unknown = [name for name in wanted if name not in ALL]
    if unknown or not wanted or len(set(wanted)) < len(wanted):
        raise ConfigError(f"initialisations={','.join(wanted)}: choose among {', '.join(ALL)}, each once")
    found, notes = [], []
    if MOCO in wanted:
        found.append(Initialisation(MOCO, model.name, lambda seed: model.backbone.module))
    if RANDOM in wanted:
        model.random(seed)
        found.append(Initialisation(RANDOM, f"{model.backbone.architecture}, random weights", model.random))
    if SUPERVISED in wanted:
        try:
            found.append(_supervised(model, labelled, device=device, out=out, seed=seed, quiet=quiet))
        except MocoError as error:
            if labelled is not None:
                raise
            notes.append(f"supervised weights left out: {error}")
    return found, notes


def _supervised(
    model: Model, labelled: str | None, *, device: str, out: Path, seed: int, quiet: bool
) -> Initialisation:
    """ImageNet weights where they are on the disk and no labelled images are named; else trained on labels."""
    reason = ""
    if labelled is None:
        try:
            weights = model.imagenet(download=False)
            return Initialisation(SUPERVISED, "ImageNet weights of torchvision", lambda seed: weights)
        except ArchitectureError as error:
            reason = f"ImageNet: {error}; "
        labelled = _pretraining_data(model, reason)
    source, _ = open_source(labelled)
    if source.labels is None or len(source.class_names) < _LEAST_CLASSES:
        raise DataError(f"{reason}{labelled} has no class folders: name labelled images, as in --labelled FOLDER")
    origin = f"trained on the labels of {labelled}: {len(source)} images of {len(source.class_names)} classes"
    known = model.backbone
    origin += f"; {known.architecture}, stem {known.stem}, {size_text(model.preprocess.size)} px, seed {seed}"
    module, file = model.random(seed), out / _FILE
    if file.is_file():
        stored = torch.load(file, weights_only=True)
        if stored["origin"] != origin:
            raise ConfigError(f"{file}: {stored['origin']}; now {origin}: choose another --out")
        module.load_state_dict(stored["backbone"])
    else:
        _train(module, model, source, device=device, seed=seed, quiet=quiet)
        with atomic.replaced(file) as partial:
            torch.save({"origin": origin, "backbone": module.state_dict()}, partial)
    return Initialisation(SUPERVISED, origin, lambda seed: module)


def _pretraining_data(model: Model, reason: str) -> str:
    """What the run learnt from, as its configuration names it."""
    folder = run_folder(model.name)
    try:
        _, data = read_config(folder / "config.yaml")
    except MocoError as error:
        raise DataError(f"{reason}no run whose images could have labels; name some, as in --labelled FOLDER") from error
    if data is None:
        raise DataError(f"{reason}the run's images are not named in its config.yaml; name some: --labelled FOLDER")
    return data


def _train(module: nn.Module, model: Model, source: Any, *, device: str, seed: int, quiet: bool) -> None:
    """Train the backbone in place as a classifier, as `moco evaluate` trains its baseline from scratch."""
    images = LabelledImages.read(
        source, np.arange(len(source)), source.labels, size=model.preprocess.size, skipped=SkippedFiles()
    )
    batch_size = min(finetune.BATCH_SIZE, len(images))
    order = PassOrder(len(images), batch_size=batch_size, seed=seed)
    epochs = finetune.default_epochs(len(order))
    options = {"size": images.size, "crop_min": finetune.CROP_MIN, "min_side": images.min_side}
    crops = crop_passes(images.decoded, order, skipped=SkippedFiles(), **options)  # type: ignore[arg-type]

    def one_pass(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        shown = f"supervised weights, epoch {epoch + 1} of {epochs}"
        for positions, pixels in watch(crops(epoch), len(order), what=shown, quiet=quiet):
            yield model.preprocess.normalize(torch.from_numpy(pixels).permute(0, 3, 1, 2)), images.targets[positions]

    classes = len(source.class_names)
    network = finetune.classifier(module.to(device), model.backbone.feature_dim, classes, seed=seed)
    with torch.random.fork_rng(devices=[device] if device.startswith("cuda") else []):
        torch.manual_seed(seed)
        finetune.train_classifier(
            network,
            one_pass,
            epochs=epochs,
            steps_per_epoch=len(order),
            learning_rate=finetune.SCRATCH_RATE * batch_size / finetune.BATCH_SIZE,
        )
    module.cpu()
