"""Checkpoints: written whole or not at all, read without running code."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from pickle import UnpicklingError  # the exception alone; nothing is unpickled
from typing import Any

import torch
from torch import Tensor, nn

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
        seconds: seconds of training in earlier, interrupted parts of the run.
        no_better: kNN evaluations since the best one.
    """

    step: int = 0
    loss_sum: Tensor = dataclasses.field(default_factory=lambda: torch.zeros(()))
    accuracy_sum: Tensor = dataclasses.field(default_factory=lambda: torch.zeros(()))
    loss_count: int = 0
    last: dict[str, float] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0
    no_better: int = 0

    def __post_init__(self) -> None:
        """Refuse what no checkpoint of ours holds; raises TypeError or ValueError."""
        kinds = {"step": int, "loss_count": int, "seconds": float, "no_better": int, "last": dict}
        for name, kind in {**kinds, "loss_sum": Tensor, "accuracy_sum": Tensor}.items():
            value = getattr(self, name)
            if not isinstance(value, (int, float) if kind is float else kind):
                raise TypeError(f"{name} is a {type(value).__name__}")
            if isinstance(value, int | float) and value < 0:
                raise ValueError(f"{name} is {value}")


def save_atomically(state: dict[str, Any], path: Path) -> None:
    """Write a checkpoint beside the old one and swap it in; a crash or a full disk leaves the old one usable.

    Raises:
        RunError: the file system refused; a previous checkpoint is untouched.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            torch.save({"format": FORMAT, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except (OSError, RuntimeError) as error:
        partial.unlink(missing_ok=True)
        left = "the previous checkpoint is untouched" if path.is_file() else "there is no checkpoint yet"
        cause = reason(error) if isinstance(error, OSError) else "the disk took no more"
        raise RunError(f"cannot write {path}: {cause}; {left}") from error


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint written by `save_atomically`; tensors and plain values only, nothing is executed.

    Raises:
        RunError: missing, cut short, foreign, or of another format.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise RunError(f"{path}: no checkpoint there; give the folder of a run") from error
    except Exception as error:  # damaged bytes lead PyTorch's reader anywhere
        what = reason(error) if isinstance(error, OSError) else "damaged, cut short or another file"
        if isinstance(error, UnpicklingError) and "GLOBAL" in str(error):
            what = "it holds more than tensors and plain values, which could run code"
        raise RunError(f"{path} is not a readable checkpoint ({what}); restore it or start a new run") from error
    tensors = state.get("model", {}) if isinstance(state, dict) else None
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise RunError(f"{path} is not a checkpoint of a run (it holds other things): restore it or start a new run")
    if state.get("format") != FORMAT:
        raise RunError(f"{path} is not a checkpoint of this version (format {FORMAT}): start a new run")
    return dict(state)


def random_state(device: torch.device) -> dict[str, Tensor]:
    """The global generators, so that a resumed run draws the same numbers."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore(model: nn.Module, optimizer: torch.optim.Optimizer, path: Path, device: torch.device) -> Position:
    """Continue from a checkpoint: model, queue, optimiser, generators, position.

    Raises:
        RunError: the checkpoint cannot be read or belongs to another configuration.
    """
    state = load(path)
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
