"""Checkpoints of others: their tensors, and what the file and its neighbours state of them. Reading runs no code."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from moco.errors import ConfigError, RunError
from moco.export.reading import FILE_NAME, first_few, read_content, read_safetensors
from moco.sizes import Size, size_of

_PREFIXES = ("module.", "_orig_mod.")  # of DistributedDataParallel and of torch.compile
# Where the tensors lie in the file, most specific first, and whose place it is.
_PLACES = (
    (("classy_state_dict", "base_model", "model", "trunk"), "VISSL"),
    (("teacher",), "DINO"),  # of DINO's two networks the one that its authors evaluate
    (("state_dict",), ""),
    (("model_state_dict",), ""),
    (("model",), ""),
    ((), ""),
)
_CHANNELS = ("mean", "std")
_IN_FOLDER = ("model.safetensors", "pytorch_model.bin")  # of timm and of transformers
Values = Mapping[str, Any]


class OwnFileError(RunError):
    """The file is one that `moco.load` reads."""


@dataclasses.dataclass(frozen=True)
class Stated:
    """How images are prepared: `mean` and `std` for images in 0..1, `size` (pixels a side; None where it is not said).

    `source`: the name of the file that says it.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: Size | None
    source: str


@dataclasses.dataclass(frozen=True)
class Foreign:
    """What the file at `path` holds: tensors by name, without the prefixes that wrappers add.

    `arch`: the architecture that it names. `place`: VISSL, DINO or detectron2 where it is built as theirs are.
    `config`: timm's or transformers' config.json, or detectron2's options. `stated`: how images are prepared.
    `image_size`: in pixels, that an export of ours was built for. `notes`: mmselfsup's configuration, as text.
    """

    path: Path
    tensors: dict[str, Tensor]
    arch: str | None = None
    place: str = ""
    config: Values = dataclasses.field(default_factory=dict)
    stated: Stated | None = None
    image_size: Size | None = None
    notes: str = ""


def read_foreign(path: Path) -> Foreign:
    """Read a checkpoint of any of the known layouts; beside tensors it may hold plain values only.

    `path` is a file, or a folder of timm or transformers with config.json and model.safetensors.

    Raises:
        RunError: missing, cut short, without tensors, with objects that only code could rebuild, or a run of ours.
    """
    path = _file(path)
    content = _content(path)
    values: Values = content if isinstance(content, Mapping) else {}
    config, stated = _beside(path, values)
    ours = {"preprocessing", "image_size"} <= values.keys()
    for keys, place in _PLACES:
        found = _at(values, keys)
        tensors = {name: value for name, value in found.items() if isinstance(name, str) and isinstance(value, Tensor)}
        if tensors:
            return Foreign(
                path,
                _unwrapped(tensors),
                arch=values["arch"] if isinstance(values.get("arch"), str) else None,
                place="detectron2" if "__author__" in values else place,
                config=config,
                stated=stated,
                image_size=size_of(values["image_size"]) if ours else None,
                notes=str(_at(values, ("meta",)).get("cfg") or _at(values, ("meta",)).get("config") or ""),
            )
    what = first_few([str(key) for key in values]) if values else type(content).__name__
    raise RunError(f"{path} holds no tensors where a checkpoint has them (it holds: {what}): name another file")


def _file(path: Path) -> Path:
    if path.is_dir():
        found = next((path / name for name in (FILE_NAME, *_IN_FOLDER) if (path / name).is_file()), None)
        if found is None:
            raise RunError(f"{path}: a folder without {' or '.join(_IN_FOLDER)}; name a checkpoint")
        return found
    if not path.is_file():
        raise RunError(f"{path}: no such file; name a checkpoint")
    if path.suffix == ".onnx":
        raise RunError(f"{path} is an ONNX graph without names of weights: use the {FILE_NAME} of its run")
    return path


def _content(path: Path) -> Any:
    content: Any
    if path.suffix == ".safetensors":
        content, header = read_safetensors(path)
        ours = {"architecture", "preprocessing"} <= header.keys()
    else:
        content = read_content(path)
        ours = isinstance(content, Mapping) and {"model", "progression"} <= content.keys()
    if ours:
        raise OwnFileError(f"{path} is moco's own: use it as it is, for instance moco embed {path} photos")
    return content


def _beside(path: Path, values: Values) -> tuple[Values, Stated | None]:
    """Options of the network and preparation of images, from the file itself or from those beside it."""
    config, inside = _json(path.with_name("config.json")), _at(values, ("config",))
    if not {"architecture", "pretrained_cfg"} <= config.keys() and config.get("model_type") != "resnet":
        config = inside if "MODEL.PIXEL_MEAN" in inside else {}  # others' options say nothing here
    processor = path.with_name("preprocessor_config.json")
    arguments = values.get("args")
    candidates = (
        (_at(values, ("preprocessing",)), path.name),
        ({name: [v / 255 for v in inside.get(f"MODEL.PIXEL_{name.upper()}", ())] for name in _CHANNELS}, path.name),
        (_processor(_json(processor)) if config else {}, processor.name),
        (_at(config, ("pretrained_cfg",)), "config.json"),
        (_at(values, ("pretrained_cfg",)), path.name),
        (vars(arguments) if isinstance(arguments, argparse.Namespace) else {}, path.name),
    )
    for found, source in candidates:
        if found.get("mean") and found.get("std"):
            try:
                mean, std = (tuple(float(value) for value in found[name]) for name in _CHANNELS)
                return config, Stated(mean, std, _size(found), source)
            except (TypeError, ValueError) as error:
                raise RunError(f"{path}: {source} states no mean and std of images ({error}): correct it") from error
    return config, None


def _processor(stated: Values) -> Values:
    """transformers' image processor under our names."""
    scale = stated.get("rescale_factor", 1 / 255) if stated.get("do_rescale", True) else 1.0
    if abs(scale * 255 - 1) > 1e-3:
        raise RunError(f"preprocessor_config.json scales images by {scale:g}: expected 1/255")
    as_they_are = None if stated.get("do_normalize", True) else ([0.0] * 3, [1.0] * 3)
    mean, std = as_they_are or (stated.get("image_mean"), stated.get("image_std"))
    size = stated.get("crop_size") if stated.get("do_center_crop", True) else None
    return {"mean": mean, "std": std, "size": size or stated.get("size")}


def _size(stated: Values) -> Size | None:
    """In pixels, under any of the names that the projects have for it; timm's begins with the channels."""
    value = stated.get("size") or stated.get("input_size") or stated.get("img_size")
    if isinstance(value, Mapping):
        value = [value.get("height"), value.get("width")] if value.get("height") else value.get("shortest_edge")
    try:
        return size_of(value[-2:] if isinstance(value, list | tuple) else value)
    except ConfigError:
        return None


def _json(file: Path) -> Values:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise RunError(f"{file} cannot be read ({error}): restore it, or move the weights elsewhere") from error
    return found if isinstance(found, dict) else {}


def _at(content: Any, keys: Iterable[str]) -> Values:
    for key in keys:
        content = content.get(key) if isinstance(content, Mapping) else None
    return content if isinstance(content, Mapping) else {}


def _unwrapped(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in _PREFIXES * 2:
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors
