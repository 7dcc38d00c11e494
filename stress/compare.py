"""Whether two folders of results are equal: tensors and numbers bit for bit; times, rates and memory left out."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

# What a run measures of the machine.
MEASURED = re.compile(
    r"seconds|per_second|data_wait|memory|predicted|capacity|share_of_peak|^rate$|^versions$|^path$|^command$|budget|^took$|^date$|^commit$"
)
# Written by loggers, one file a part of a run; tables of text and pictures show what the JSON files beside them hold.
UNCOMPARED = re.compile(r"(^|/)(events\.out\.tfevents\.[^/]*|hparams\.yaml)$")
EXISTENCE_ONLY = (".md", ".png", ".txt")


def listing(folder: Path) -> set[str]:
    """Files below the folder, and the folder's name itself where it is a file."""
    if folder.is_file():
        return {"."}
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    return {name for name in found if not UNCOMPARED.search(name)}


def difference(expected: Path, found: Path, *, ignore: str = "") -> str | None:
    """The first difference between two files or folders, in words; None where they are equal.

    `ignore`: a regular expression of the names of files that may differ or be absent.
    """
    wanted, there = listing(expected), listing(found)
    if ignore:
        wanted, there = ({name for name in names if not re.search(ignore, name)} for names in (wanted, there))
    if wanted - there:
        return f"{found.name} lacks {', '.join(sorted(wanted - there)[:3])}"
    if there - wanted:
        return f"{found.name} also holds {', '.join(sorted(there - wanted)[:3])}"
    for name in sorted(wanted):
        try:
            two = content(expected / name, expected.suffix), content(found / name, expected.suffix)
        except Exception as error:
            return f"{found.name}/{name} cannot be read: {str(error).partition(chr(10))[0]}"
        for place in differing(*two):
            return f"{found.name}/{name}{place}"
    return None


def content(path: Path, suffix: str = "") -> Any:
    """What a file holds, as plain data, arrays and tensors."""
    suffix = path.suffix or suffix
    if suffix in EXISTENCE_ONLY:
        return None
    if suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(path, "pt") as file:
            names = file.keys()
            return {"metadata": file.metadata(), **{name: file.get_tensor(name) for name in names}}
    if suffix in (".pt", ".pth", ".tar"):
        return torch.load(path, map_location="cpu", weights_only=True)
    if suffix == ".npz":
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    if suffix == ".json":
        return json.loads(path.read_text(encoding="utf-8"))
    if suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return path.read_bytes()


def differing(one: Any, two: Any, place: str = "") -> Iterator[str]:
    """Where two values differ."""
    if isinstance(one, dict) and isinstance(two, dict):
        for name in [*one, *(name for name in two if name not in one)]:
            if name not in one or name not in two:
                yield f"{place}: {name} is in one of both only"
            elif not (isinstance(name, str) and MEASURED.search(name)):
                yield from differing(one[name], two[name], f"{place}: {name}")
    elif isinstance(one, list | tuple) and isinstance(two, list | tuple):
        if len(one) != len(two):
            yield f"{place}: {len(one)} and {len(two)} entries"
        for number, pair in enumerate(zip(one, two, strict=False)):
            yield from differing(*pair, f"{place}[{number}]")
    elif isinstance(one, torch.Tensor) and isinstance(two, torch.Tensor):
        if one.dtype != two.dtype or one.shape != two.shape or _bits(one) != _bits(two):
            yield f"{place}: other numbers"
    elif isinstance(one, np.ndarray) and isinstance(two, np.ndarray):
        if one.dtype != two.dtype or one.shape != two.shape or one.tobytes() != two.tobytes():
            yield f"{place}: other numbers"
    elif one != two and not (one != one and two != two):  # NaN is NaN
        yield f"{place}: {_short(one)} and {_short(two)}"


def _bits(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
