"""The network that is judged, and those of the same architecture that it is judged beside."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from pickle import UnpicklingError  # the exception alone; nothing is unpickled
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from moco.config import Config
from moco.data.preprocess import Preprocessing
from moco.data.views import IMAGENET, ViewRecipe
from moco.encoder import Backbone, build_backbone, linear_head, mlp_head
from moco.errors import ArchitectureError, ConfigError, MocoError, RunError
from moco.evaluation.linear import changed_tensors
from moco.export.load import CHECKPOINT, FILE_NAME, load, run_folder
from moco.recipes import configure
from moco.training import checkpoint
from moco.workload import view_recipe

_WEIGHT_FILES = (".safetensors", ".pt", ".pth")
_HEAD = "encoder_q.head."
_BACKBONE = "encoder_q.backbone."
DEFAULT_SIZE = 224


@dataclasses.dataclass(frozen=True)
class Subject:
    """What the user named.

    Attributes:
        name: as the user called it.
        backbone: the module and how to build its like.
        preprocess: image to input.
        trained: False for an architecture alone, whose weights are random.
        head: the projection head of the run, features to embeddings; None where there is none to be had.
        views: the run's augmentation, MoCo v2's where no run is known.
        notes: what the reader should know.
    """

    name: str
    backbone: Backbone
    preprocess: Preprocessing
    trained: bool
    head: nn.Module | None
    views: ViewRecipe
    notes: tuple[str, ...] = ()

    def random(self, seed: int) -> nn.Module:
        """The same architecture with random weights, in eval mode."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return _build(self.backbone).module.eval()

    def imagenet(self, *, download: bool) -> nn.Module | str:
        """The same architecture with torchvision's ImageNet weights; or why they are not to be had, in a few words."""
        try:
            return _imagenet(self.backbone, download=download)
        except ArchitectureError as error:
            return str(error)


def open_subject(
    model: str | os.PathLike[str], *, image_size: int | None, data_size: int | None, allow_factory: bool, seed: int
) -> Subject:
    """A run folder, a backbone.safetensors file, a checkpoint, or the name of an architecture (with random weights).

    Args:
        model: what the user named; an existing path comes before an architecture.
        image_size: side of the images in pixels; None takes the run's, else that of the data, else 224.
        data_size: side of the data's images where all are squares of one size, else None.
        allow_factory: see `moco.export.load.load`.
        seed: of an architecture's random weights.

    Raises:
        RunError: the file cannot be read.
        ArchitectureError: no such architecture, or weights of another one.
    """
    name = os.fspath(model)
    if not Path(name).expanduser().exists() and not name.endswith(_WEIGHT_FILES):
        return _architecture(name, image_size or data_size or DEFAULT_SIZE, seed)
    loaded = load(name, allow_factory=allow_factory)
    size = image_size or loaded.preprocess.size
    backbone = Backbone(
        loaded.backbone, loaded.feature_dim, loaded.architecture, loaded.stem, loaded.image_size, 3, loaded.num_heads
    )
    head, views, notes = _of_run(Path(name).expanduser(), backbone)
    return Subject(name, backbone, dataclasses.replace(loaded.preprocess, size=size), True, head, views, notes)


def _architecture(name: str, image_size: int, seed: int) -> Subject:
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            backbone = build_backbone(name, image_size=image_size)
    except ArchitectureError as error:
        raise ArchitectureError(f"{name!r} is no run, no file and no architecture: {error}") from error
    backbone.module.eval()
    views = view_recipe(configure("v2", {}))
    return Subject(name, backbone, Preprocessing(image_size, *IMAGENET), False, None, views)


def _build(backbone: Backbone) -> Backbone:
    return build_backbone(
        backbone.architecture,
        image_size=backbone.image_size,
        stem=backbone.stem,  # type: ignore[arg-type]
        num_heads=backbone.num_heads,
    )


def _of_run(path: Path, backbone: Backbone) -> tuple[nn.Module | None, ViewRecipe, tuple[str, ...]]:
    """Head and views of the run that the weights belong to, as far as there is one, and what is missing."""
    folder = run_folder(path)
    views = view_recipe(_config(folder) or configure("v2", {}))
    own = path.is_file() and path.suffix != Path(FILE_NAME).suffix  # the weights themselves are a checkpoint's
    last = path if own else folder / CHECKPOINT
    if not last.is_file() or not (own or path.is_dir() or path.name == FILE_NAME):
        return None, views, ()
    try:
        state: dict[str, Tensor] = checkpoint.load(last)["model"]
    except (RunError, KeyError) as error:
        return None, views, (f"embeddings left out: {error}",)
    of_backbone = {key.removeprefix(_BACKBONE): value for key, value in state.items() if key.startswith(_BACKBONE)}
    if changed_tensors(of_backbone, backbone.module.state_dict()):
        return None, views, (f"embeddings left out: {last} belongs to another step than {FILE_NAME}",)
    tensors = {key.removeprefix(_HEAD): value for key, value in state.items() if key.startswith(_HEAD)}
    try:
        return _head(tensors), views, ()
    except RunError as error:
        return None, views, (f"embeddings left out: {error}",)


def _config(folder: Path) -> Config | None:
    """The run's configuration; None where there is none that can be read."""
    try:
        stored: dict[str, Any] = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        stored.pop("data", None)
        return configure(stored.pop("recipe"), stored)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, AttributeError, KeyError, TypeError, MocoError):
        return None


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


def _imagenet(backbone: Backbone, *, download: bool) -> nn.Module:
    from torchvision.models import get_model_weights

    library, _, short = backbone.architecture.rpartition("/")
    if library != "torchvision" or backbone.stem != "standard":
        raise ArchitectureError(f"there are none for {backbone.architecture} with stem {backbone.stem}")
    weights: Any = get_model_weights(short)
    if not len(weights):
        raise ArchitectureError(f"torchvision has none for {short}")
    chosen = weights.DEFAULT
    file = Path(torch.hub.get_dir()) / "checkpoints" / chosen.url.rpartition("/")[2]
    if not file.is_file() and not download:
        raise ArchitectureError(f"{file.name} is not on the disk (--download fetches it)")
    try:
        state = chosen.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (OSError, RuntimeError, UnpicklingError) as error:
        raise ConfigError(f"ImageNet weights {chosen.url}: {error}; leave out --download to do without") from error
    module = _build(backbone).module
    expected = module.state_dict()
    if any(name not in state or state[name].shape != value.shape for name, value in expected.items()):
        raise ArchitectureError(f"torchvision's do not fit {short} at {backbone.image_size} px")
    module.load_state_dict({name: state[name] for name in expected})
    return module.eval()
