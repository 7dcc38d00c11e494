"""What a task must offer, so that one training loop and one comparison serve all of them.

A task is an object that holds its images for training and for the test, and its settings; it knows nothing of how
long is trained, from which weights, or with which seeds.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn


class Task(Protocol):
    """Detection, segmentation, ...

    Attributes:
        main_score: the key of `score` that comparisons are about: AP, mIoU.
        batch_size: images an iteration.
    """

    main_score: str
    batch_size: int

    @property
    def name(self) -> str:
        """What the command calls it."""
        ...

    def model(self, backbone: nn.Module) -> nn.Module:
        """The network to be trained, with `backbone` (N, C, H, W) -> (N, D) in it and new layers from torch's global
        random state; all parameters take gradients, and no BatchNorm is frozen.

        Raises:
            ArchitectureError: a backbone without what the task needs; the message names the remedy.
        """
        ...

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """One batch's loss, a scalar; moves the batch to the model's device."""
        ...

    def batches(self, *, seed: int, start: int) -> Iterator[Any]:
        """Endless training batches from iteration `start` on; the batch of an iteration follows from `seed` and its
        number alone, so that a resumed run sees what it would have seen. On several ranks: this rank's share of each.
        """
        ...

    def score(self, model: nn.Module) -> dict[str, float]:
        """Figures on the test images, in percent, `main_score` among them; `NAME/class` are those of a class."""
        ...

    def picture(self, models: dict[str, nn.Module], file: Path) -> None:
        """What each model says of a few test images, beside the truth, as a PNG: a row a model, by its label."""
        ...

    def settings(self) -> dict[str, Any]:
        """What the figures depend on, as plain data: sizes, sampling, data; goes into the JSON and the checkpoint."""
        ...


class LossOf(nn.Module):
    """A model and its task as one module, batch -> loss: what `precise_batchnorm_(module, batches, n)` calls."""

    def __init__(self, task: Task, model: nn.Module) -> None:
        super().__init__()
        self.task, self.model = task, model

    def forward(self, batch: Any) -> Tensor:
        return self.task.loss(self.model, batch)
