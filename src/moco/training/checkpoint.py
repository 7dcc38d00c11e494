"""Checkpoints: written whole or not at all, read without running code."""

from __future__ import annotations

import os
from pathlib import Path
from pickle import UnpicklingError  # the exception alone; nothing is unpickled
from typing import Any

import torch

from moco.errors import RunError

FORMAT = 1


def save_atomically(state: dict[str, Any], path: Path) -> None:
    """Write a checkpoint beside the old one and swap it in; a crash or a full disk leaves the old one usable.

    Raises:
        RunError: the file system refused; the previous checkpoint is untouched.
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
        raise RunError(f"cannot write {path}: {error}; the previous checkpoint is untouched") from error


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint written by `save_atomically`; tensors and plain values only, nothing is executed.

    Raises:
        RunError: missing, cut short, foreign, or of another format.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise RunError(f"{path}: no checkpoint there; give the folder of a run") from error
    except (RuntimeError, UnpicklingError, EOFError, ValueError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RunError(f"{path} is not a readable checkpoint ({reason}); restore it or start a new run") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise RunError(f"{path} is not a checkpoint of this version (format {FORMAT}): start a new run")
    return state


def random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """The global generators, so that a resumed run draws the same numbers."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_random_state(state: dict[str, torch.Tensor], device: torch.device) -> None:
    """Undo `random_state`."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
