"""A trained backbone, ready to use, from the file that says what it is.

N: images   C, H, W: channels, height, width   D: feature width
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from moco.data.preprocess import Preprocessing
from moco.encoder import Backbone, build_backbone
from moco.encoder.stem import Stem
from moco.errors import ArchitectureError, DataError, RunError

FILE_NAME = "backbone.safetensors"
CHECKPOINT = Path("checkpoints", "last.pt")  # in a run's folder
_STATED = ("architecture", "stem", "image_size", "feature_dim", "preprocessing")
_SHOWN = 3  # keys named in a message


class Pretrained(nn.Module):
    """A trained backbone: normalised images (N, 3, H, W) -> features (N, D).

    Attributes:
        backbone: the module, with the tensor names of the library it comes from.
        feature_dim: D.
        preprocess: image or path -> (3, size, size) float32, as the network expects it.
        architecture, stem: names, see `moco.encoder.build_backbone`.
        image_size: side in pixels of the images that it learnt from.
        num_heads: attention heads, where they are not the architecture's own number; else None.
    """

    def __init__(self, backbone: Backbone, preprocess: Preprocessing) -> None:
        super().__init__()
        self.backbone = backbone.module
        self.feature_dim, self.preprocess = backbone.feature_dim, preprocess
        self.architecture, self.stem = backbone.architecture, backbone.stem
        self.image_size, self.num_heads = backbone.image_size, backbone.num_heads

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


def load(path: str | os.PathLike[str], *, allow_factory: bool = False) -> Pretrained:
    """The backbone of a run, in eval mode, on the CPU.

    Args:
        path: a run folder, a backbone.safetensors file, or a checkpoint in a run's folder (checkpoints/last.pt).
        allow_factory: whether a backbone that is a function of the user's (package.module:factory) may be imported
            and called because the file names it. Reading a file runs no other code.

    Raises:
        RunError: the file is missing, cut short, or does not say what it holds.
        ArchitectureError: its backbone cannot be built here, or its tensors are not those of that backbone.
    """
    file = backbone_file(path)
    tensors, stated = _read(file)
    try:
        architecture, stem = stated["architecture"], stated["stem"]
        image_size, feature_dim = int(stated["image_size"]), int(stated["feature_dim"])
        num_heads = int(stated["num_heads"]) if "num_heads" in stated else None
        preprocess = Preprocessing.from_dict(json.loads(stated["preprocessing"]))
    except (KeyError, ValueError, DataError) as error:
        missing = [name for name in _STATED if name not in stated]
        what = f"without {', '.join(missing)}" if missing else f"with a broken header ({error})"
        raise RunError(f"{file} is a file {what}: need one that moco wrote; `moco import` takes others'") from error
    if ":" in architecture and not allow_factory:
        raise ArchitectureError(
            f"{file} names the function {architecture}, which would be called: allow it if you trust it "
            "(allow_factory=True, --allow-factory)"
        )
    with torch.random.fork_rng(devices=[]):  # its random start is overwritten
        built = build_backbone(architecture, image_size=image_size, stem=cast(Stem, stem), num_heads=num_heads)
    fill(built.module, tensors, what=f"{file} for {architecture}, stem {stem}")
    if built.feature_dim != feature_dim:
        raise ArchitectureError(f"{file} states {feature_dim} features, {architecture} gives {built.feature_dim}")
    return Pretrained(built, preprocess).eval()


def backbone_file(path: str | os.PathLike[str]) -> Path:
    """The weights' file of a run folder, or the path itself if it is a file.

    Raises:
        RunError: nothing there.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        if not (path / FILE_NAME).is_file():
            newest = next((file for file in (path / CHECKPOINT, path / CHECKPOINT.name) if file.is_file()), None)
            or_that = f", or the checkpoint {newest}" if newest else ""
            raise RunError(f"{path} holds no {FILE_NAME}: name the folder of a run that has come to its end{or_that}")
        return path / FILE_NAME
    if not path.is_file():
        raise RunError(f"{path}: no such file or folder; name a run's folder or its {FILE_NAME}")
    return path


def run_folder(path: str | os.PathLike[str]) -> Path:
    """The folder of the run that a path names: itself, or that of its weights or of its checkpoint."""
    path = Path(path).expanduser()
    if path.is_dir():
        return path
    return path.parent.parent if path.absolute().parent.name == CHECKPOINT.parent.name else path.parent


def _read(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """A backbone's tensors and what is said of them, from its own file or from a checkpoint."""
    if file.suffix == Path(FILE_NAME).suffix:
        return read_tensors(file)
    from moco.export.run_checkpoint import read_checkpoint  # it reads as `foreign` does, which needs this module

    return read_checkpoint(file, run_folder(file))


def read_tensors(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors by name and the header's text values of a safetensors file; runs no code.

    Raises:
        RunError: the file cannot be read as such.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}, dict(opened.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise RunError(f"{file} is not a whole safetensors file ({reason}): copy it again") from error


def fill(module: nn.Module, tensors: Mapping[str, Tensor], *, what: str) -> None:
    """Copy tensors into the module, all of them and nothing else.

    Args:
        module: takes the values in place.
        tensors: by the module's own names.
        what: how the message calls them.

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


def first_few(keys: Iterable[str]) -> str:
    """The first three keys for a message."""
    keys = list(keys)
    return ", ".join(keys[:_SHOWN]) + (", ..." if len(keys) > _SHOWN else "")


def digest(file: Path) -> str:
    """SHA-256 of a file's content."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
