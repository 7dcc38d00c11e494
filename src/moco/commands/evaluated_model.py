"""What `moco.evaluate` is asked to measure: weights of a run with its head and views, a module, or an architecture."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from moco.commands.starting_weights import MODULE
from moco.config_checks import check_factory
from moco.config_file import read_config
from moco.data.base import Source
from moco.data.channel_statistics import channel_statistics
from moco.data.preprocess import Preprocessing
from moco.data.views import ViewRecipe, view_recipe
from moco.encoder import Backbone, build_backbone, linear_head, mlp_head
from moco.errors import ArchitectureError, MocoError, RunError
from moco.evaluation.linear import changed_tensors
from moco.evaluation.network import Model
from moco.evaluation.settings import Settings
from moco.evaluation.task import Sources
from moco.export.load import BACKBONE, HEAD, load, weights_path
from moco.export.reading import CHECKPOINT, FILE_NAME, run_folder
from moco.export.trained import in_channels, trained_backbone
from moco.normalization import IMAGENET
from moco.printable import printable
from moco.recipes import configure
from moco.training import checkpoint

if TYPE_CHECKING:
    from moco.export.load import Weights

_WEIGHT_FILES = (".safetensors", ".pt", ".pth")
DEFAULT_SIZE = 224


def open_model(model: Weights, settings: Settings, preprocessing: Preprocessing | None, data: Source) -> Model:
    """The model that a user means; an existing path comes before an architecture of that name.

    Its image size is the settings', else that of the preprocessing stated or the run's, else the side of the data's
    images where they are squares of one size, else 224. An architecture has the channels of the data.

    Raises:
        ConfigError: a module without its preprocessing.
        RunError: the file cannot be read.
        ArchitectureError: no such architecture, weights of another one, or a module that gives no features.
    """
    views, path = view_recipe(configure("v2", {})), weights_path(model)
    if path is not None and not path.exists() and path.suffix not in _WEIGHT_FILES:
        if preprocessing is None:
            plain = data.channels == len(IMAGENET[0])
            values = IMAGENET if plain else channel_statistics(data, np.arange(len(data)), seed=settings.seed)
            preprocessing = Preprocessing(square_side(data) or DEFAULT_SIZE, *values)
        preprocess = _resized(preprocessing, settings)
        views = _fitting(views, preprocess)
        return Model(str(model), _architecture(str(model), preprocess, settings.seed), preprocess, False, views)
    loaded = load(model, preprocessing=preprocessing, allow_factory=settings.allow_factory)
    preprocess = _resized(loaded.preprocess, settings)
    views, known = _fitting(views, preprocess), (loaded.architecture, loaded.stem, loaded.image_size)
    built = Backbone(loaded.backbone, loaded.feature_dim, *known, preprocess.channels, loaded.num_heads)
    if path is None:
        return Model(loaded.architecture, built, preprocess, True, views)
    head, views, notes = _of_run(path, loaded.backbone, views)
    starting, missing = _starting_weights(run_folder(path) / "config.yaml", settings)
    return Model(str(path), built, preprocess, True, views, head, (*notes, *missing), starting)


def _starting_weights(config: Path, settings: Settings) -> tuple[nn.Module | None, tuple[str, ...]]:
    """What the run started from, if that were trained weights which are to be had, or why they are missing."""
    try:
        stated = read_config(config)[0]
        init, channels = stated.init, stated.channels
    except RunError:  # weights alone, or imported ones
        return None, ()
    if init is None or settings.baselines == "none":
        return None, ()
    try:
        if init == MODULE:
            raise RunError("a module that was handed over")
        if not Path(init).expanduser().exists():
            check_factory(init, file=config, allowed=settings.allow_factory)
        if not settings.download and not Path(init).expanduser().exists():
            raise RunError(f"{init} is not on the disk (--download fetches weights that have a name)")
        return in_channels(trained_backbone(init, channels=channels), channels).backbone, ()
    except MocoError as error:
        return None, (f"starting weights left out: {error}",)


@contextlib.contextmanager
def in_range_of(preprocess: Preprocessing, sources: Sources, *, quiet: bool) -> Iterator[Sources]:
    """The images with the channels and in the value range of the model, else all in that of the train images; says
    what is to be known.
    """
    train, test = (None if one is None else one.in_channels(preprocess.channels) for one in sources)
    assert train is not None
    train = train.in_range(preprocess.value_range or train.value_range)
    test = None if test is None else test.in_range(train.value_range)
    said = [] if quiet else [train] if test is None else [train, test]
    for line in (line for source in said for line in source.remarks):
        print(printable(line), file=sys.stderr)
    yield train, test
    for line in filter(None, (source.closing_line() for source in said)):
        print(printable(line), file=sys.stderr)


def square_side(source: Source) -> int | None:
    """Side of the images where all are squares of one size in an array."""
    shape = source.uniform_shape
    return shape[0] if shape is not None and shape[0] == shape[1] else None


def _resized(preprocess: Preprocessing, settings: Settings) -> Preprocessing:
    return dataclasses.replace(preprocess, size=settings.image_size or preprocess.size)  # type: ignore[arg-type]


def _fitting(views: ViewRecipe, preprocess: Preprocessing) -> ViewRecipe:
    """Views of these channels."""
    return dataclasses.replace(views, mean=preprocess.mean, std=preprocess.std)


def _architecture(name: str, preprocess: Preprocessing, seed: int) -> Backbone:
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            backbone = build_backbone(name, image_size=preprocess.size, channels=preprocess.channels)
    except ArchitectureError as error:
        raise ArchitectureError(f"{name!r} is no run, no file and no architecture: {error}") from error
    backbone.module.eval()
    return backbone


def _of_run(path: Path, backbone: nn.Module, views: ViewRecipe) -> tuple[nn.Module | None, ViewRecipe, tuple[str, ...]]:
    """Head and views of the run that the weights belong to, as far as there is one, and what is missing."""
    folder = run_folder(path)
    with contextlib.suppress(RunError):  # weights alone, or imported ones
        views = view_recipe(read_config(folder / "config.yaml")[0])
    own = path.is_file() and path.suffix != Path(FILE_NAME).suffix  # the weights themselves are a checkpoint's
    last = path if own else folder / CHECKPOINT
    if not last.is_file() or not (own or path.is_dir() or path.name == FILE_NAME):
        return None, views, ()
    try:
        state: dict[str, Tensor] = checkpoint.load(last)["model"]
        if changed_tensors(_part(state, BACKBONE), backbone.state_dict()):
            raise RunError(f"{last} belongs to another step than {FILE_NAME}")
        return _head(_part(state, HEAD)), views, ()
    except (RunError, KeyError) as error:
        return None, views, (f"embeddings left out: {error}",)


def _part(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def _head(tensors: dict[str, Tensor]) -> nn.Module:
    """The projection head that has these tensors: v1's linear one or v2's two layers."""
    head: nn.Module
    if tensors.keys() == {"weight", "bias"}:
        width, features = tensors["weight"].shape
        head = linear_head(features, width)
    elif tensors.keys() == {"0.weight", "0.bias", "2.weight", "2.bias"}:
        hidden, features = tensors["0.weight"].shape
        head = mlp_head(features, len(tensors["2.weight"]), hidden)
    else:
        raise RunError(f"the run's head ({', '.join(sorted(tensors)) or 'without tensors'}) is neither v1's nor v2's")
    head.load_state_dict(tensors)
    return head.eval()
