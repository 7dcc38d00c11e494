"""What lies in a weights file: tensors and header. Reading runs no code and builds no network."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import warnings
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from pickle import UnpicklingError  # the exception alone; nothing is unpickled
from typing import Any

import numpy as np
import torch
from torch import Tensor

from moco.errors import MocoError, RunError

FILE_NAME = "backbone.safetensors"
CHECKPOINT = Path("checkpoints", "last.pt")  # in a run's folder


def read_safetensors(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors by name of a safetensors file, and the text values that it states beside them.

    Raises:
        RunError: the file cannot be read as such.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            return tensors, opened.metadata() or {}
    except (SafetensorError, OSError, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise RunError(f"{file} is not a whole safetensors file ({reason}): copy it again") from error


def read_content(file: Path) -> Any:
    """What `torch.save` has written: tensors and plain values; nothing else is rebuilt.

    Raises:
        RunError: cut short, no such file, or holding other objects.
    """
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_harmless()):
            warnings.simplefilter("ignore")  # of old file formats
            return torch.load(file, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        what = f"objects that need {named[1]}" if named else "something else than tensors and plain values"
        raise RunError(
            f"{file} holds {what}, which is not loaded: it could run code; "
            "where you trust it, save its state_dict alone and import that"
        ) from error
    except Exception as error:  # damaged bytes lead PyTorch's reader anywhere
        telling = isinstance(error, RuntimeError | EOFError | ValueError | zipfile.BadZipFile)
        says = str(error) if telling and "weights_only" not in str(error) else ""
        reason = says.splitlines()[0][:150] if says else "damaged, cut short or something else"
        raise RunError(f"{file} is not a readable checkpoint ({reason}): copy it again") from error


@contextlib.contextmanager
def understood(file: object) -> Iterator[None]:
    """Around what makes sense of a file's content: a value of another type than expected is said in one line.

    Raises:
        RunError: the content is not what such a file has.
    """
    try:
        yield
    except MocoError:
        raise
    except (TypeError, ValueError, LookupError, AttributeError, RuntimeError, ArithmeticError) as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())[:150]
        raise RunError(f"{file} holds something else than such a file has ({said}): name another") from error


def _harmless() -> list[Any]:
    """What checkpoints hold beside tensors and can do nothing: options, NumPy numbers and arrays of numbers."""
    multiarray: Any = np._core.multiarray  # type: ignore[attr-defined]
    kinds = [type(np.dtype(code)) for code in "?bhilqBHILQefd"]
    functions = [multiarray.scalar, multiarray._reconstruct]
    old_names = [(function, f"numpy.core.multiarray.{function.__name__}") for function in functions]
    return [argparse.Namespace, np.dtype, np.ndarray, *functions, *old_names, *kinds]


def weights_file(path: str | os.PathLike[str]) -> Path:
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


def first_few(keys: Iterable[str]) -> str:
    """The first three keys for a message."""
    keys = list(keys)
    return ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "")
