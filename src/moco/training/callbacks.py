"""Moments of a run at which code of the user's may be called."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from moco.errors import ConfigError

if TYPE_CHECKING:
    from moco.training.loop import Training


class Callback:
    """Base class; override the moments that you want. Each is called on every rank, with the whole state of the run.

    `training` has `model`, `optimizer`, `config`, `fabric`, `step` and `total_steps`; a callback may set
    `training.stop = True` to end the run after this step, with a checkpoint.
    """

    def on_train_start(self, training: Training) -> None:
        """Before the first step, after a checkpoint was restored."""

    def on_step_end(self, training: Training) -> None:
        """After each optimiser step and its update of f_k and the dictionary; `training.loss` is on the device."""

    def on_log(self, training: Training, values: dict[str, float]) -> None:
        """Values have been logged: loss, learning_rate, knn_top1, ..."""

    def on_checkpoint(self, training: Training, path: Path) -> None:
        """A checkpoint has been written (by rank 0)."""

    def on_train_end(self, training: Training) -> None:
        """After the last step and its checkpoint."""


MOMENTS = tuple(name for name in vars(Callback) if name.startswith("on_"))


def check_callbacks(callbacks: Any) -> None:
    """Whether the user's callbacks can be called.

    Raises:
        ConfigError: no list, or one with something that has none of the moments.
    """
    expected = f"a list of objects with some of {', '.join(MOMENTS)}, as moco.Callback has"
    if not isinstance(callbacks, list | tuple):
        raise ConfigError(f"callbacks={callbacks!r}: expected {expected}")
    for callback in callbacks:
        moments = [getattr(callback, name) for name in MOMENTS if hasattr(callback, name)]
        if isinstance(callback, type) or not moments or not all(map(callable, moments)):
            raise ConfigError(f"callbacks with {callback!r}: expected {expected}")
