"""The model that is measured, and the networks of its architecture that it is compared with."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError  # the exception alone; nothing is unpickled
from typing import Any

import torch
from torch import nn

from moco.data.preprocess import Preprocessing
from moco.data.views import ViewRecipe
from moco.encoder import Backbone, build_backbone
from moco.encoder.backbone import GIVEN
from moco.encoder.pretrained import torchvision_tensors, torchvision_weights
from moco.errors import ArchitectureError, ConfigError
from moco.evaluation.settings import Settings
from moco.normalization import IMAGENET
from moco.sizes import size_text


@dataclasses.dataclass(frozen=True)
class Model:
    """What the user named.

    Attributes:
        name: as the user called it.
        backbone: the module and how to build its like.
        preprocess: image to input.
        trained: False for an architecture alone, whose weights are random.
        views: augmentation for the scores without labels: the run's, MoCo v2's where no run is known.
        head: the projection head of the run, features to embeddings; None where there is none to be had.
        notes: what the reader should know.
        starting: what the run started from, where that were trained weights; None for random ones.
    """

    name: str
    backbone: Backbone
    preprocess: Preprocessing
    trained: bool
    views: ViewRecipe
    head: nn.Module | None = None
    notes: tuple[str, ...] = ()
    starting: nn.Module | None = None

    def random(self, seed: int) -> nn.Module:
        """The same architecture with random weights, in eval mode.

        Raises:
            ArchitectureError: a module of the user's whose weights cannot be drawn anew.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if self.backbone.architecture.startswith(GIVEN):
                return drawn_anew(self.backbone.module).eval()
            return _build(self.backbone).eval()

    def imagenet(self, *, download: bool) -> nn.Module:
        """The same architecture with torchvision's ImageNet weights, in eval mode.

        Raises:
            ArchitectureError: they are not to be had; the message says why in a few words.
            ConfigError: they cannot be read.
        """
        library, _, short = self.backbone.architecture.rpartition("/")
        plain = library == "torchvision" and self.backbone.stem == "standard" and self.backbone.channels == 3
        if not plain:
            built = f"{self.backbone.architecture} with stem {self.backbone.stem}, {self.backbone.channels} channels"
            raise ArchitectureError(f"there are none for {built}")
        state = _torchvision_weights(short, download=download)
        module = _build(self.backbone)
        expected = module.state_dict()
        if any(name not in state or state[name].shape != value.shape for name, value in expected.items()):
            raise ArchitectureError(f"torchvision's do not fit {short} at {size_text(self.backbone.image_size)} px")
        module.load_state_dict({name: state[name] for name in expected})
        return module.eval()


@dataclasses.dataclass(frozen=True)
class Network:
    """One network that is measured, or one for each seed.

    Attributes:
        label: run, random_init, starting_weights, from_scratch or imagenet.
        make: the backbone of a seed, in eval mode.
        preprocess: image to input.
        seeds: those that give different networks; one alone where nothing is drawn.
        head: features to embeddings; None where there is none.
    """

    label: str
    make: Callable[[int], nn.Module]
    preprocess: Preprocessing
    seeds: range
    head: nn.Module | None = None


def networks(model: Model, settings: Settings) -> tuple[list[Network], list[str]]:
    """The model first, then its baselines without training, as far as they are wanted; and what is missing."""
    seeds, notes = settings.all_seeds, []
    if model.trained:
        found = [Network("run", lambda seed: model.backbone.module, model.preprocess, seeds[:1], model.head)]
    else:
        found = [Network("run", model.random, model.preprocess, seeds)]
    if model.trained and settings.baselines != "none":
        try:
            model.random(settings.seed)
            found.append(Network("random_init", model.random, model.preprocess, seeds))
        except ArchitectureError as error:
            notes.append(f"random weights left out: {error}")
    if model.starting is not None and settings.baselines != "none":
        starting = model.starting.eval()
        found.append(Network("starting_weights", lambda seed: starting, model.preprocess, seeds[:1]))
    if settings.baselines in ("auto", "all"):
        try:
            weights = model.imagenet(download=settings.download)
            preprocess = dataclasses.replace(model.preprocess, mean=IMAGENET[0], std=IMAGENET[1])
            found.append(Network("imagenet", lambda seed: weights, preprocess, seeds[:1]))
        except ArchitectureError as error:
            notes.append(f"ImageNet-supervised weights left out: {error}")
    return found, notes


def _build(backbone: Backbone) -> nn.Module:
    return build_backbone(
        backbone.architecture,
        image_size=backbone.image_size,
        stem=backbone.stem,  # type: ignore[arg-type]
        channels=backbone.channels,
        num_heads=backbone.num_heads,
    ).module


def drawn_anew(module: nn.Module) -> nn.Module:
    """A copy whose layers have all drawn their weights again.

    Raises:
        ArchitectureError: a layer that cannot.
    """
    module = copy.deepcopy(module)
    for layer in module.modules():
        reset: Any = getattr(layer, "reset_parameters", None)
        if reset is not None:
            reset()
        elif next(layer.parameters(recurse=False), None) is not None:
            raise ArchitectureError(f"{type(layer).__name__} has weights and no reset_parameters() to draw them anew")
    return module


def _torchvision_weights(name: str, *, download: bool) -> dict[str, Any]:
    chosen = torchvision_weights(name)
    file = Path(torch.hub.get_dir()) / "checkpoints" / chosen.url.rpartition("/")[2]
    if not file.is_file() and not download:
        raise ArchitectureError(f"{file.name} is not on the disk (--download fetches it)")
    try:
        return torchvision_tensors(chosen)
    except (OSError, RuntimeError, UnpicklingError) as error:
        raise ConfigError(f"ImageNet weights {chosen.url}: {error}; leave out --download to do without") from error
