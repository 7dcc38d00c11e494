"""How a fine-tuning is done beyond what is trained, and where it is."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from moco.contrast.collective import world_size
from moco.transfer.fine_tuning.limit import Limit


@dataclasses.dataclass(frozen=True)
class Options:
    """How a run is done, beyond what is trained.

    Attributes:
        device: of the model.
        precision: of training: fp32, or bf16 (autocast, with weights and optimizer in fp32). Tests are in fp32, and so
            are the batches on which BatchNorm's statistics are measured for them.
        precise: batches that BatchNorm's statistics are measured on before each test; 0 leaves the running ones.
        score_every: iterations between tests on the way; 0 tests at the end alone.
        save_every: seconds between checkpoints.
        quiet: no progress bar.
        limit: after which no further iteration or test begins.
    """

    device: str = "cpu"
    precision: Literal["fp32", "bf16"] = "fp32"
    precise: int = 200
    score_every: int = 0
    save_every: float = 60.0
    quiet: bool = False
    limit: Limit = dataclasses.field(default_factory=Limit)

    def stated(self) -> dict[str, Any]:
        """What of it the figures may depend on, as plain data."""
        return {"device": self.device, "precision": self.precision, "precision_of_tests": "fp32", "ranks": world_size()}


@dataclasses.dataclass
class Progress:
    """Where a run is; all of it is in the checkpoint.

    Attributes:
        iteration: optimizer steps done.
        losses: of the iterations since the last of `curve`.
        curve: (iteration, mean loss since the entry before).
        scores: (iteration, figures) of the tests, the last one at the end.
        seconds: of training, images included, tests left out.
        how: (iteration, `Options.stated`): on what it was trained from that iteration on.
    """

    iteration: int = 0
    losses: list[float] = dataclasses.field(default_factory=list)
    curve: list[tuple[int, float]] = dataclasses.field(default_factory=list)
    scores: list[tuple[int, dict[str, float]]] = dataclasses.field(default_factory=list)
    seconds: float = 0.0
    how: list[tuple[int, dict[str, Any]]] = dataclasses.field(default_factory=list)
