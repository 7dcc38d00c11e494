"""Checkpoints: written whole or not at all, read without running code."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import zipfile
from pathlib import Path
from pickle import UnpicklingError  # the exception alone; nothing is unpickled
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from moco.atomic import reason
from moco.errors import RunError

FORMAT = 1


@dataclasses.dataclass(kw_only=True)
class Position:
    """What changes while training, besides model and optimiser; a checkpoint holds it.

    Attributes:
        step: steps done.
        loss_sum: sum of the losses since the last logged line, on the device.
        accuracy_sum: sum of the pretext accuracies of the same steps, on the device.
        loss_count: how many they are.
        last: newest value of each logged name.
        seconds: seconds of training, evaluations not counted.
        flops: FLOPs of all ranks in these.
        capacity: FLOPs that their devices could have computed in these, as far as measured.
        no_better: kNN evaluations since the best one.
        steps_per_epoch: steps in a pass over the images with which the run began; 0 where none was begun.
    """

    step: int = 0
    loss_sum: Tensor = dataclasses.field(default_factory=lambda: torch.zeros(()))
    accuracy_sum: Tensor = dataclasses.field(default_factory=lambda: torch.zeros(()))
    loss_count: int = 0
    last: dict[str, float] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0
    flops: int = 0
    capacity: float = 0.0
    no_better: int = 0
    steps_per_epoch: int = 0

    def __post_init__(self) -> None:
        """Refuse what no checkpoint of ours holds; raises TypeError or ValueError."""
        kinds: dict[str, Any] = {"loss_sum": Tensor, "accuracy_sum": Tensor, "last": dict}
        kinds |= dict.fromkeys(("seconds", "capacity"), (int, float))
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, kinds.get(field.name, int)):
                raise TypeError(f"{field.name} is a {type(value).__name__}")
            if isinstance(value, int | float) and value < 0:
                raise ValueError(f"{field.name} is {value}")


def save_atomically(state: dict[str, Any], path: Path, *, keep: int = 1) -> None:
    """Write a checkpoint and swap it in; a crash or a full disk leaves the old ones usable.

    Args:
        state: tensors and plain values.
        path: of the newest checkpoint; `keep` - 1 earlier ones lie beside it, see `candidates`.
        keep: how many there are then at most, at least 1.

    Raises:
        RunError: the file system refused; the checkpoints are as they were.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            torch.save({"format": FORMAT, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        kept = candidates(path, keep)
        for older, newer in reversed(list(zip(kept[1:], kept, strict=False))):
            if newer.exists():
                _hand_down(newer, older)
        os.replace(partial, path)
        for surplus in candidates(path)[1:]:
            if surplus not in kept:
                surplus.unlink()
    except (OSError, RuntimeError) as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        last = next((file for file in candidates(path) if file.is_file()), None)
        kept_one = "there is no earlier one" if last is None else f"{last} is as it was"
        cause = reason(error) if isinstance(error, OSError) else "the disk took no more"
        raise RunError(f"cannot write {path}: {cause}; {kept_one}") from error


def _hand_down(newer: Path, older: Path) -> None:
    """Put a checkpoint in the place of the one before it; until another takes its own, it is found there as well."""
    second = older.with_name(older.name + ".partial")
    try:
        second.unlink(missing_ok=True)
        os.link(newer, second)
        os.replace(second, older)
        second.unlink(missing_ok=True)  # is still there if both were names of one file: killed at this place before
    except OSError:  # file systems without second names
        os.replace(newer, older)


def candidates(path: Path, count: int | None = None) -> list[Path]:
    """The newest checkpoint and those before it: last.pt, last-1.pt, last-2.pt, ...; None: those that are there."""
    if count is None:
        numbered = (file for file in path.parent.glob(f"{path.stem}-*{path.suffix}") if _number(file) is not None)
        return [path, *sorted(numbered, key=lambda file: _number(file) or 0)]
    return [path, *(path.with_name(f"{path.stem}-{number}{path.suffix}") for number in range(1, count))]


def _number(file: Path) -> int | None:
    digits = file.stem.rpartition("-")[2]
    return int(digits) if digits.isdecimal() else None


def newest_sound(path: Path) -> tuple[Path, dict[str, Any], list[str]] | None:
    """The newest of the checkpoints that can be read, its content, and why each newer one cannot; None without any.

    Raises:
        RunError: there are some, and none can be read.
    """
    damaged: list[str] = []
    for file in candidates(path):
        if not file.is_file():
            continue
        try:
            return file, load(file), damaged
        except RunError as error:
            damaged.append(str(error))
    if damaged:
        raise RunError(damaged[0])
    return None


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint written by `save_atomically`; tensors and plain values only, nothing is executed.

    Raises:
        RunError: missing, cut short, foreign, or of another format.
    """
    try:
        with zipfile.ZipFile(path) as archive:  # torch.load does not look at its checksums
            if (wrong := archive.testzip()) is not None:
                raise ValueError(f"{wrong} in it is damaged")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise RunError(f"{path}: no checkpoint there; give the folder of a run") from error
    except Exception as error:  # damaged bytes lead PyTorch's reader anywhere
        raise RunError(
            f"{path} is not a readable checkpoint ({_reason(error)}); restore it or start a new run"
        ) from error
    tensors = state.get("model", {}) if isinstance(state, dict) else None
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise RunError(f"{path} is not a checkpoint of a run (it holds other things): restore it or start a new run")
    if state.get("format") != FORMAT:
        raise RunError(f"{path} is not a checkpoint of this version (format {FORMAT}): start a new run")
    return dict(state)


def _reason(error: Exception) -> str:
    """In one line, without PyTorch's advice to load files in a way that would run their code."""
    if isinstance(error, OSError):
        return reason(error)
    foreign = isinstance(error, UnpicklingError) and "GLOBAL" in str(error)
    return "it holds more than tensors and plain values" if foreign else "damaged, cut short or another file"


def is_finite(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor) -> bool:
    """Whether all that the next step follows from is: the sum of losses, parameters, the optimiser's tensors; buffers
    are numbers (a user's module may have infinite constants)."""
    kept = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
    learnt = get_total_norm([*model.parameters(), *(value for value in kept if value.is_floating_point())])
    buffers = get_total_norm([value for value in model.buffers() if value.is_floating_point()])
    total, size, rest = torch.stack([loss, learnt, buffers]).tolist()
    return math.isfinite(total) and math.isfinite(size) and not math.isnan(rest)


def random_state(device: torch.device) -> dict[str, Tensor]:
    """The global generators, so that a resumed run draws the same numbers."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return dict(state)


def restore(
    state: dict[str, Any], path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device
) -> Position:
    """Continue from a checkpoint's content: model, queue, optimiser, generators, position. `path`: for messages.

    Raises:
        RunError: the checkpoint belongs to another configuration.
    """
    try:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        position = Position(**state["progression"])
        _restore_random_state(state["random"], device)
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise RunError(f"{path} does not fit this configuration: {reason(error)}") from error
    for parameter, kept in optimizer.state.items():
        if any(value.ndim and value.shape != parameter.shape for value in kept.values() if isinstance(value, Tensor)):
            raise RunError(f"{path} is of an earlier version, whose optimiser state does not fit: start a new run")
    return position


def _restore_random_state(state: dict[str, Tensor], device: torch.device) -> None:
    """Undo `random_state`."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
