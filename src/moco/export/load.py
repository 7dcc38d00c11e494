"""A trained backbone, ready to use: from the file that says what it is, or from a module and its preprocessing.

N: images   C, H, W: channels, height, width   D: feature width
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from moco.config_checks import check_factory
from moco.config_file import read_config
from moco.data.preprocess import Preprocessing
from moco.encoder import Backbone, build_backbone
from moco.encoder.backbone import GIVEN
from moco.encoder.digest import state_digest
from moco.encoder.stem import Stem
from moco.errors import ArchitectureError, ConfigError, DataError, RunError
from moco.export.reading import FILE_NAME, first_few, read_content, read_safetensors, run_folder, weights_file
from moco.fields import LARGEST_SIDE
from moco.normalization import normalization_values
from moco.sizes import height_width, size_of

BACKBONE, HEAD = "encoder_q.backbone.", "encoder_q.head."  # in a checkpoint
_STATED = ("architecture", "stem", "image_size", "feature_dim", "preprocessing")


class HasPath(Protocol):
    """A run, such as `moco.Run`: its `path` is its folder."""

    @property
    def path(self) -> str | os.PathLike[str]:
        """The run's folder."""
        ...


Weights = str | os.PathLike[str] | HasPath | nn.Module
"""What `load`, `embed`, `neighbours`, `export_weights` take: a path, a run, a `Pretrained`, or a module."""


class Pretrained(nn.Module):
    """A trained backbone: normalised images (N, C, H, W) -> features (N, D).

    Attributes:
        backbone: the module, with the tensor names of the library it comes from.
        feature_dim: D.
        preprocess: path, PIL image, array or uint8 tensor -> (C, H, W) float32, as the network expects it.
        architecture, stem: names, see `moco.encoder.build_backbone`.
        image_size, channels: in pixels (see `moco.sizes`), and channels, of the images that it learnt from.
        num_heads: attention heads, where they are not the architecture's own number; else None.
    """

    def __init__(self, backbone: Backbone, preprocess: Preprocessing) -> None:
        super().__init__()
        self.backbone = backbone.module
        self.feature_dim, self.channels = backbone.feature_dim, backbone.channels
        self.architecture, self.stem = backbone.architecture, backbone.stem
        self.image_size, self.num_heads = backbone.image_size, backbone.num_heads
        self.prepare_by(preprocess)

    def prepare_by(self, preprocess: Preprocessing) -> None:
        """Let images go in by this; raises ConfigError where it is for other channels."""
        if preprocess.channels != self.channels:
            mean = ",".join(f"{value:g}" for value in preprocess.mean)
            raise ConfigError(f"mean {mean} for {self.architecture} of {self.channels} channels: need as many numbers")
        self.preprocess = preprocess

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.backbone(images)
        return features

    def metadata(self) -> dict[str, Any]:
        """What `write_backbone` puts into the file's header, so that `load` gives the same again."""
        stated = {
            "architecture": self.architecture,
            "stem": self.stem,
            "image_size": self.image_size,
            "feature_dim": self.feature_dim,
            "preprocessing": self.preprocess.as_dict(),
        }
        return stated if self.num_heads is None else {**stated, "num_heads": self.num_heads}

    def digest(self) -> str:
        """SHA-256 of the tensors with their names and shapes."""
        return state_digest(self.backbone)


def load(
    run: Weights,
    *,
    backbone: nn.Module | None = None,
    preprocessing: Preprocessing | None = None,
    allow_factory: bool = False,
) -> Pretrained:
    """The backbone of a run, in eval mode, on the CPU.

    Args:
        run: a run folder, a `moco.Run`, a backbone.safetensors file, or a checkpoint in a run's folder
            (checkpoints/last.pt); or a `Pretrained` or another module (N, C, H, W) -> (N, D), which is copied.
        backbone: the module to fill, for a run whose backbone was a module of the user's; it is filled in place. A
            `moco.Run` has its module: a copy of it is filled where none is given.
        preprocessing: how images go in: needed for a module; instead of the stated one for the others.
        allow_factory: whether a backbone that is a function of the user's (package.module:factory) may be imported
            and called because the file names it. Reading a file runs no other code.

    Raises:
        ConfigError: a module without its preprocessing, or a preprocessing of other channels.
        RunError: the file is missing, cut short, or does not say what it holds.
        ArchitectureError: its backbone cannot be built here, or its tensors are not those of that backbone.
    """
    if isinstance(run, nn.Module):
        model = _copied(run, preprocessing)
    else:
        own = getattr(run, "module", None)
        if backbone is None and own is not None:
            backbone = copy.deepcopy(own).cpu()
        model = _read(weights_file(_path(run)), backbone, allow_factory)
    if preprocessing is not None:
        model.prepare_by(preprocessing)
    return model.eval()


def weights_path(run: Weights) -> Path | None:
    """The path that a user means; None for a module."""
    return None if isinstance(run, nn.Module) else _path(run)


def _path(run: str | os.PathLike[str] | HasPath) -> Path:
    path = run if isinstance(run, str | os.PathLike) else getattr(run, "path", None)
    if not isinstance(path, str | os.PathLike):
        raise ConfigError(f"run of type {type(run).__name__}: need a path, a moco.Run, or a module")
    return Path(path).expanduser()


def _copied(module: nn.Module, preprocessing: Preprocessing | None) -> Pretrained:
    if isinstance(module, Pretrained):
        return copy.deepcopy(module).cpu()
    if preprocessing is None:
        raise ConfigError(
            f"{type(module).__name__} does not say how its images are prepared: add "
            "preprocessing=moco.Preprocessing(size, mean, std)"
        )
    size, channels = preprocessing.size, preprocessing.channels
    return Pretrained(build_backbone(copy.deepcopy(module).cpu(), image_size=size, channels=channels), preprocessing)


def _read(file: Path, module: nn.Module | None, allow_factory: bool) -> Pretrained:
    """Built as the file says, or the user's module, filled."""
    if file.suffix == Path(FILE_NAME).suffix:
        tensors, stated = read_safetensors(file)
    else:
        tensors, stated = _read_checkpoint(file)
    try:
        architecture, stem = stated["architecture"], stated["stem"]
        image_size, feature_dim = size_of(json.loads(stated["image_size"])), int(stated["feature_dim"])
        num_heads = int(stated["num_heads"]) if "num_heads" in stated else None
        preprocess = Preprocessing.from_dict(json.loads(stated["preprocessing"]))
        sides = (*height_width(image_size), *height_width(preprocess.size))
        if not all(1 <= side <= LARGEST_SIDE for side in sides):
            raise ValueError(f"sides of {max(sides)} pixels")
    except (LookupError, TypeError, AttributeError, OverflowError, RecursionError, ValueError, DataError) as error:
        missing = [name for name in _STATED if name not in stated]
        what = f"without {', '.join(missing)}" if missing else f"with a broken header ({error})"
        raise RunError(f"{file} is a file {what}: need one that moco wrote; `moco import` takes others'") from error
    if module is None and architecture.startswith(GIVEN):
        name = architecture.removeprefix(GIVEN)
        raise ArchitectureError(f"{file} holds the weights of a module {name}: build it, moco.load(..., backbone=it)")
    check_factory(architecture, file=file, allowed=allow_factory or module is not None)
    with torch.random.fork_rng(devices=[]):  # its random start is overwritten
        if module is None:
            options: Any = {"stem": cast(Stem, stem), "num_heads": num_heads, "channels": preprocess.channels}
            built = build_backbone(architecture, image_size=image_size, **options)
        else:
            built = build_backbone(module, image_size=image_size, channels=preprocess.channels)
    fill(built.module, tensors, what=f"{file} for {architecture}, stem {stem}")
    if built.feature_dim != feature_dim:
        raise ArchitectureError(f"{file} states {feature_dim} features, {architecture} gives {built.feature_dim}")
    return Pretrained(built, preprocess)


def _read_checkpoint(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """f_q's backbone, also of a run that was killed, and the header that its backbone.safetensors would have."""
    content = read_content(file)
    model = content.get("model") if isinstance(content, dict) and "progression" in content else None
    if not isinstance(model, dict) or not any(name.startswith(BACKBONE) for name in model):
        raise RunError(f"{file} is no checkpoint of a moco run: make a run of it with moco import {file}")
    tensors = {name.removeprefix(BACKBONE): value for name, value in model.items() if name.startswith(BACKBONE)}
    config, _ = read_config(_config_of(file))
    head_inputs = [config.embedding_dim] if config.head == "none" else []
    head_inputs += [value.shape[1] for name, value in model.items() if name.startswith(HEAD) and value.ndim == 2]
    if not head_inputs:
        raise RunError(f"{file} holds no head, whose inputs are the features: take backbone.safetensors of its run")
    values = normalization_values(config.normalization)
    preprocessing = Preprocessing(config.image_size, *values, config.value_range, not config.fixed_crop)
    return tensors, {
        "architecture": config.backbone,
        "stem": config.stem,
        "image_size": json.dumps(config.image_size),
        "feature_dim": str(head_inputs[0]),
        "preprocessing": json.dumps(preprocessing.as_dict()),
    }


def _config_of(file: Path) -> Path:
    """Beside the checkpoint of a run."""
    stated = run_folder(file) / "config.yaml"
    if not stated.is_file():
        raise RunError(f"{file}: there is no {stated}: name the checkpoint in its run's folder")
    return stated


def fill(module: nn.Module, tensors: Mapping[str, Tensor], *, what: str) -> None:
    """Copy tensors into the module, all of them and nothing else; `what` is what messages call them.

    Raises:
        ArchitectureError: keys are missing, left over, or of another shape; nothing has been copied.
    """
    expected = module.state_dict()
    problems = {
        "missing": [name for name in expected if name not in tensors],
        "not expected": [name for name in tensors if name not in expected],
        "of another shape": [
            f"{name} {tuple(tensors[name].shape)} instead of {tuple(tensor.shape)}"
            for name, tensor in expected.items()
            if name in tensors and tensors[name].shape != tensor.shape
        ],
    }
    found = [f"{len(keys)} {problem}: {first_few(keys)}" for problem, keys in problems.items() if keys]
    if found:
        raise ArchitectureError(f"{what} does not fit; {'; '.join(found)}")
    module.load_state_dict(tensors)
