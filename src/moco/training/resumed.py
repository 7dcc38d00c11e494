"""Where a resumed run goes on, and for how long."""

from __future__ import annotations

import torch

from moco.config import Config
from moco.contrast import ContrastiveModel
from moco.errors import RunError
from moco.training import checkpoint
from moco.training.checkpoint import Position
from moco.training.run_folder import RunFolder
from moco.training.schedule import learning_rate, run_length


def restored(
    folder: RunFolder,
    model: ContrastiveModel,
    optimizer: torch.optim.Optimizer,
    device: torch.device,
    *,
    steps_per_epoch: int,
) -> tuple[Position | None, list[str]]:
    """The position of the newest sound checkpoint, which is loaded, and what to say; None where there is none yet.

    `steps_per_epoch`: of the images as they are, for checkpoints of versions that kept none.

    Raises:
        RunError: there are checkpoints, but none can be read; or one of another configuration.
    """
    found = checkpoint.newest_sound(folder.checkpoint)
    if found is None:
        return None, []
    file, state, damaged = found
    position = checkpoint.restore(state, file, model, optimizer, device)
    position.steps_per_epoch = position.steps_per_epoch or steps_per_epoch
    return position, [*damaged, f"continuing at step {position.step:,}" + (f" of {file.name}" if damaged else "")]


def set_length(folder: RunFolder, before: Config, now: Config, position: Position) -> list[str]:
    """What another length than before means for a run that is resumed at this position.

    Raises:
        RunError: it has come further already.
    """
    step, epoch = position.step, position.steps_per_epoch
    former, length = run_length(before, epoch), run_length(now, epoch)
    if length < step:
        raise RunError(
            f"the run in {folder.path} is at step {step:,} of {former:,}, beyond {length:,}: state a greater length, "
            "or leave it out"
        )
    if length == former:
        return []
    rate, other = learning_rate(now, step, epoch), learning_rate(before, step, epoch)
    return [
        f"{length:,} steps in the place of {former:,}: from step {step:,} on, the learning rate is that of a run of "
        f"this length, here {rate:.3g} and not {other:.3g}"
    ]
