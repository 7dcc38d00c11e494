"""Trained weights to other projects' formats; each is read back by its own target before it counts."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import torch

from moco.atomic import written
from moco.data.bands import RGB, count_of
from moco.errors import ArchitectureError, ConfigError
from moco.export import to_detectron2, to_huggingface, to_moco, to_onnx, to_safetensors, to_timm, to_torchvision
from moco.export.proof import Proof, prove, quiet
from moco.export.subject import Subject
from moco.export.table import check_free


class Format(NamedTuple):
    """One target: its module, the suffix of its files ("" for a folder), the packages that it needs.

    The module has `refusal(subject)`: why these weights cannot be expressed there, in a few words, or None;
    `write(subject, path)`; and `read(path)`, a `Reader` that reads the file as the target does. `any_channels`: whether
    it takes images of other than three channels; `any_preprocessing`: whether it can say that images are not resized.
    """

    module: ModuleType
    suffix: str
    needs: tuple[str, ...] = ()
    any_channels: bool = False
    any_preprocessing: bool = False

    def refusal(self, subject: Subject) -> str | None:
        """Why these weights cannot be expressed in it, in a few words; None if they can."""
        channels = subject.model.preprocess.channels
        if channels != RGB and not self.any_channels:
            return f"it is for RGB, these weights for images of {count_of(channels)}"
        if not subject.model.preprocess.resize and not self.any_preprocessing:
            return "its readers resize images to the network's size, these weights learnt from images as they are"
        refusal: str | None = self.module.refusal(subject)
        return refusal


FORMATS = {
    "torchvision": Format(to_torchvision, ".pth"),
    "timm": Format(to_timm, "", ("timm",)),
    "huggingface": Format(to_huggingface, "", ("transformers", "timm")),
    "safetensors": Format(to_safetensors, ".safetensors", any_channels=True, any_preprocessing=True),
    "onnx": Format(to_onnx, ".onnx", ("onnx", "onnxscript", "onnxruntime"), any_channels=True, any_preprocessing=True),
    "detectron2": Format(to_detectron2, ".pth"),
    "moco": Format(to_moco, ".pth.tar"),
}


def fitting(subject: Subject, name: str) -> Format:
    """The format of this name, if it can express these weights and its packages are installed.

    Raises:
        ConfigError: an unknown format, or one whose package is not installed.
        ArchitectureError: the weights cannot be expressed in it; the message names those that fit.
    """
    if name not in FORMATS:
        raise ConfigError(f"format={name!r}: choose one of {', '.join(FORMATS)}")
    form = FORMATS[name]
    missing = [package for package in form.needs if importlib.util.find_spec(package) is None]
    if missing:
        raise ConfigError(f"format {name} needs {', '.join(missing)}: pip install {' '.join(missing)}")
    refusal = form.refusal(subject)
    if refusal is not None:
        fit = [other for other, candidate in FORMATS.items() if candidate.refusal(subject) is None]
        raise ArchitectureError(f"format {name}: {refusal}; these fit: {', '.join(fit)}")
    return form


def export(subject: Subject, name: str, out: Path, *, overwrite: bool = False) -> Proof:
    """Write `out` in the format of this name, read it back, compare; on a difference nothing is left.

    Raises:
        ConfigError, ArchitectureError: see `fitting`.
        RunError: `out` cannot be written, or its target gives other features.
    """
    form = fitting(subject, name)
    check_free(out, overwrite=overwrite)
    partial = out.with_name(f".{out.name}.partial{form.suffix}")
    try:
        with (
            written(out),
            quiet(),
            torch.random.fork_rng(devices=[]),
        ):  # targets draw random weights before they load ours
            _remove(partial)
            form.module.write(subject, partial)
            proof = prove(subject.model, form.module.read(partial), what=f"{name}'s reading of the export")
            _remove(out)
            os.replace(partial, out)
    finally:
        with contextlib.suppress(OSError):
            _remove(partial)
    return proof


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
