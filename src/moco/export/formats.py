"""Trained weights to other projects' formats; each is read back by its own target before it counts."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import torch

from moco.errors import ArchitectureError, ConfigError, RunError
from moco.export import to_detectron2, to_huggingface, to_moco, to_onnx, to_safetensors, to_timm, to_torchvision
from moco.export.proof import Proof, Reader, prove, quiet
from moco.export.subject import Subject


@dataclasses.dataclass(frozen=True)
class Format:
    """One target.

    Attributes:
        suffix: of the file's name; "" for a folder.
        needs: packages that must be installed, by their import names.
        refusal: why these weights cannot be expressed there, in a few words; None if they can.
        write: makes the file or folder.
        read: reads it as the target does.
    """

    suffix: str
    needs: tuple[str, ...]
    refusal: Callable[[Subject], str | None]
    write: Callable[[Subject, Path], None]
    read: Callable[[Path], Reader]


def _format(suffix: str, module: object, *needs: str) -> Format:
    return Format(suffix, needs, module.refusal, module.write, module.read)  # type: ignore[attr-defined]


FORMATS: dict[str, Format] = {
    "torchvision": _format(".pth", to_torchvision),
    "timm": _format("", to_timm, "timm"),
    "huggingface": _format("", to_huggingface, "transformers", "timm"),
    "safetensors": _format(".safetensors", to_safetensors),
    "onnx": _format(".onnx", to_onnx, "onnx", "onnxscript", "onnxruntime"),
    "detectron2": _format(".pth", to_detectron2),
    "moco": _format(".pth.tar", to_moco),
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
    if out.exists() and not overwrite:
        raise RunError(f"{out} is there already: choose another --out, or add --overwrite")
    partial = out.with_name(f".{out.name}.partial{form.suffix}")
    try:
        if not out.parent.is_dir():
            raise RunError(f"{out.parent} is no folder: make it, or choose another --out")
        _remove(partial)
        with quiet(), torch.random.fork_rng(devices=[]):  # targets draw random weights before they load ours
            form.write(subject, partial)
            proof = prove(subject.model, form.read(partial), what=f"{name}'s reading of the export")
        _remove(out)
        os.replace(partial, out)
    except OSError as error:
        raise RunError(f"cannot write {out}: {error.strerror or error}") from error
    finally:
        _remove(partial)
    return proof


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
