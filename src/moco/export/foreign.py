"""Checkpoints of others, read without running code: the tensors, and what the file says of itself."""

from __future__ import annotations

import argparse
import dataclasses
import re
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from pickle import UnpicklingError  # the exception alone; nothing is unpickled
from typing import Any

import numpy as np
import torch
from torch import Tensor

from moco.errors import RunError
from moco.export.reading import read_content, read_header, read_tensors

_PREFIXES = ("module.", "_orig_mod.")  # of DistributedDataParallel and of torch.compile
# Where the tensors lie in the file, most specific first. The first is VISSL's.
_PLACES = (
    ("classy_state_dict", "base_model", "model", "trunk"),
    ("state_dict",),
    ("model_state_dict",),
    ("model",),
    (),
)


@dataclasses.dataclass(frozen=True)
class Foreign:
    """What a file holds.

    Attributes:
        tensors: by name, without the prefixes that wrappers add.
        arch: the architecture that the file names; None if it names none.
        vissl: whether it is laid out as VISSL does.
    """

    tensors: dict[str, Tensor]
    arch: str | None
    vissl: bool


def read_foreign(path: Path) -> Foreign:
    """Read a checkpoint of any of the known layouts; beside tensors it may hold plain values only.

    Raises:
        RunError: missing, cut short, without tensors, with objects that only code of its makers could rebuild, or ours,
            of which more is known than its tensors.
    """
    if not path.is_file():
        raise RunError(f"{path}: {'a folder' if path.is_dir() else 'no such file'}; name a checkpoint")
    content, ours = _content(path)
    if ours:
        raise RunError(f"{path} is moco's own: use it as it is, for instance moco embed {path} photos")
    for place in _PLACES:
        found = _at(content, place)
        tensors = {name: value for name, value in found.items() if isinstance(name, str) and isinstance(value, Tensor)}
        if tensors:
            arch = content.get("arch")
            return Foreign(_unwrapped(tensors), arch if isinstance(arch, str) else None, vissl=len(place) > 1)
    keys = first_few([str(key) for key in content]) if isinstance(content, Mapping) else type(content).__name__
    raise RunError(f"{path} holds no tensors where a checkpoint has them (it holds: {keys}): name another file")


def _content(path: Path) -> tuple[Any, bool]:
    """What is in the file, and whether it is a run's."""
    if path.suffix == ".safetensors":
        tensors, stated = read_tensors(path)
        return tensors, {"architecture", "preprocessing"} <= stated.keys()
    content = read_content(path)
    return content, isinstance(content, Mapping) and {"model", "progression"} <= content.keys()


def read_content(path: Path) -> Any:
    """What `torch.save` has written: tensors and plain values; nothing else is rebuilt and no code is run.

    Raises:
        RunError: cut short, no such file, or holding other objects.
    """
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_harmless()):
            warnings.simplefilter("ignore")  # of old file formats
            return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        what = f"objects that need {named[1]}" if named else "something else than tensors and plain values"
        raise RunError(
            f"{path} holds {what}, which is not loaded: it could run code; "
            "where you trust it, save its state_dict alone and import that"
        ) from error
    except (RuntimeError, EOFError, ValueError, OSError, KeyError, zipfile.BadZipFile) as error:
        says = "" if isinstance(error, KeyError | OSError) else str(error)  # a number alone says nothing
        reason = says.splitlines()[0][:150] if says else "damaged, cut short or something else"
        raise RunError(f"{path} is not a readable checkpoint ({reason}): copy it again") from error


def _harmless() -> list[Any]:
    """What checkpoints hold beside tensors and can do nothing: options, NumPy numbers and arrays of numbers."""
    multiarray: Any = np._core.multiarray  # type: ignore[attr-defined]
    kinds = [type(np.dtype(code)) for code in "?bhilqBHILQefd"]
    functions = [multiarray.scalar, multiarray._reconstruct]
    old_names = [(function, f"numpy.core.multiarray.{function.__name__}") for function in functions]
    return [argparse.Namespace, np.dtype, np.ndarray, *functions, *old_names, *kinds]


def _at(content: Any, place: Iterable[str]) -> Mapping[Any, Any]:
    for key in place:
        content = content.get(key) if isinstance(content, Mapping) else None
    return content if isinstance(content, Mapping) else {}


def _unwrapped(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in _PREFIXES * 2:
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors
