"""The training loop: steps, schedule, logging, evaluation, checkpoints. Knows no images and no files but the run's."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from moco.config import Config
from moco.contrast import (
    ContrastiveModel,
    MoCo,
    MoCoV3,
    end_to_end_step,
    memory_bank_step,
    moco_step,
    moco_v3_step,
    symmetric_moco_step,
)
from moco.contrast.collective import shapes_agreed
from moco.errors import RunError
from moco.training import allowance, checkpoint
from moco.training.interrupt import StopRequest
from moco.training.metrics import MetricsWriter, Progress
from moco.training.schedule import key_momentum_at, learning_rate_factor

if TYPE_CHECKING:
    from lightning.fabric import Fabric

Batch = tuple[Tensor, Tensor]  # two views, or a view and its samples' numbers in the memory bank
# What a step of each mechanism is, plain and symmetric.
STEPS: dict[tuple[str, bool], Callable[..., tuple[Tensor, Tensor]]] = {
    ("moco", False): moco_step,
    ("moco", True): symmetric_moco_step,
    ("memory-bank", False): memory_bank_step,
    ("end-to-end", False): end_to_end_step,
    ("moco-v3", True): moco_v3_step,
}
Evaluate = Callable[[nn.Module], Iterable[tuple[str, float]]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """What to train on and where to write.

    Attributes:
        config: the run's configuration.
        fabric: device, precision and processes.
        batches: from a first step, what each following step takes, on the device.
        steps_per_epoch: steps in a pass over the images.
        evaluate: from the query backbone, named values (a kNN accuracy); None for none.
        checkpoint: file of the newest checkpoint.
        folder: run folder for metrics; None on ranks other than 0.
        show_progress: whether to draw the progress bar.
    """

    config: Config
    fabric: Fabric
    batches: Callable[[int], Iterator[Batch]]
    steps_per_epoch: int
    evaluate: Evaluate | None
    checkpoint: Path
    folder: Path | None
    show_progress: bool = True

    @property
    def total_steps(self) -> int:
        """Optimiser steps in the whole run."""
        return self.config.steps or (self.config.epochs or 0) * self.steps_per_epoch

    def learning_rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        config = self.config
        return config.learning_rate * learning_rate_factor(
            step,
            total_steps=self.total_steps,
            steps_per_epoch=self.steps_per_epoch,
            schedule=config.schedule,
            unit=config.schedule_unit,
            warmup_steps=config.warmup_steps or config.warmup_epochs * self.steps_per_epoch,
            milestones=config.lr_milestones,
            decay=config.lr_decay,
        )


@dataclasses.dataclass(kw_only=True)
class Progression:
    """What changes while training, besides model and optimiser; a checkpoint holds it.

    Attributes:
        step: steps done.
        loss_sum: sum of the losses since the last logged line, on the device.
        accuracy_sum: sum of the pretext accuracies of the same steps, on the device.
        loss_count: how many they are.
        last: newest value of each logged name.
        seconds: seconds of training in earlier, interrupted parts of the run.
    """

    step: int = 0
    loss_sum: Tensor = dataclasses.field(default_factory=lambda: torch.zeros(()))
    accuracy_sum: Tensor = dataclasses.field(default_factory=lambda: torch.zeros(()))
    loss_count: int = 0
    last: dict[str, float] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0


def train(model: ContrastiveModel, optimizer: torch.optim.Optimizer, task: Task, now: Progression) -> Progress:
    """Train from `now.step` to the end, or to the next step boundary after Ctrl-C; a checkpoint is written either way.

    Returns the progress with its rates; `now` says how far it came.

    Raises:
        RunError: the loss is no longer a number, or a checkpoint cannot be written.
    """
    config, batch_size = task.config, task.config.batch_size
    evaluation_steps = spaced_steps(task.total_steps, allowance.evaluations(config) if task.evaluate else 0)
    writer = MetricsWriter(task.folder)
    progress = Progress(task.total_steps * batch_size, now.step * batch_size, show=task.show_progress)
    device = task.fabric.device
    now.loss_sum, now.accuracy_sum = now.loss_sum.to(device), now.accuracy_sum.to(device)
    batches, saved_at = task.batches(now.step), time.monotonic()
    try:
        with StopRequest() as stop, contextlib.ExitStack() as after_first:
            first = now.step
            while now.step < task.total_steps and not _should_stop(stop, task, now.step):
                asked_at = time.perf_counter()
                batch = next(batches)
                waited = time.perf_counter() - asked_at
                rate = one_step(model, batch, optimizer, task, now)
                if now.step == first + 1:  # the loader's batches have one shape, as the first step has found
                    after_first.enter_context(shapes_agreed())
                progress.advance(batch_size, waited)
                if now.step % config.log_every == 0 or now.step == task.total_steps:
                    _log(task, writer, progress, now, rate)
                if now.step in evaluation_steps:
                    _evaluate(model, task, writer, progress, now)
                saved_at = _save_if_due(model, optimizer, task, now, progress, saved_at)
            progress.stop()
            now.seconds += progress.seconds
            save(model, optimizer, task, now)
    finally:
        progress.close()
        writer.close()
        _close(batches)
    return progress


def one_step(
    model: ContrastiveModel, batch: Batch, optimizer: torch.optim.Optimizer, task: Task, now: Progression
) -> float:
    """One step of the run's mechanism at its learning rate, which is returned; nothing waits for the device."""
    step = STEPS[task.config.mechanism, task.config.symmetric]
    rate = set_learning_rate(optimizer, task.learning_rate(now.step))
    if task.config.key_momentum_schedule == "cosine":
        assert isinstance(model, MoCo | MoCoV3)
        assert task.config.key_momentum is not None
        model.key_momentum = key_momentum_at(now.step, total_steps=task.total_steps, start=task.config.key_momentum)
    loss, accuracy = step(model, *batch, optimizer, backward=task.fabric.backward)
    now.loss_sum += loss
    now.accuracy_sum += accuracy
    now.loss_count += 1
    now.step += 1
    return rate


def spaced_steps(total_steps: int, count: int) -> set[int]:
    """`count` evenly spaced steps, the last at the end."""
    return {math.ceil(total_steps * (i + 1) / count) for i in range(count)}


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> float:
    """Set it on every parameter group; returns it."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    return rate


def _should_stop(stop: StopRequest, task: Task, step: int) -> bool:
    if task.fabric.world_size == 1:
        return stop.asked
    if step % task.config.log_every:  # ranks must stop at the same step, and asking each other costs time
        return False
    asked = torch.tensor(float(stop.asked), device=task.fabric.device)
    return bool(_reduced(task, asked, "sum") > 0)


def _reduced(task: Task, value: Tensor, operation: str) -> Tensor:
    result = task.fabric.all_reduce(value, reduce_op=operation)
    assert isinstance(result, Tensor)
    return result


def _log(task: Task, writer: MetricsWriter, progress: Progress, now: Progression, rate: float) -> None:
    means = torch.stack([now.loss_sum, now.accuracy_sum]) / now.loss_count
    if task.fabric.world_size > 1:
        means = _reduced(task, means, "mean")
    value, accuracy = means.tolist()
    if not math.isfinite(value):
        raise RunError(
            f"the loss is {value} at step {now.step}: lower base_learning_rate, or use precision fp32; "
            f"the last good checkpoint is {task.checkpoint}"
        )
    now.loss_sum.zero_()
    now.accuracy_sum.zero_()
    now.loss_count = 0
    now.last.update(loss=value, pretext_accuracy=accuracy)
    writer.write(
        now.step,
        epoch=now.step / task.steps_per_epoch,
        loss=value,
        pretext_accuracy=accuracy,
        learning_rate=rate,
        images_per_second=progress.images_per_second,
        data_wait=progress.data_wait,
    )
    progress.say(loss=f"{value:.3f}")


def _evaluate(model: ContrastiveModel, task: Task, writer: MetricsWriter, progress: Progress, now: Progression) -> None:
    if task.folder is None or task.evaluate is None:  # rank 0 evaluates for all
        return
    if not allowance.affordable(task.config, now.last, now.seconds + progress.seconds):
        allowance.leave_out(now.last)
        return
    start = time.perf_counter()
    with progress.pause():
        values = dict(task.evaluate(model.encoder_q))
    seconds = time.perf_counter() - start
    now.last.update(values)
    allowance.spend(now.last, seconds)
    writer.write(now.step, **values, evaluation_seconds=seconds)
    progress.say(**{name.removesuffix("_top1"): f"{value:.1%}" for name, value in values.items()})


def _save_if_due(
    model: ContrastiveModel,
    optimizer: torch.optim.Optimizer,
    task: Task,
    now: Progression,
    progress: Progress,
    saved_at: float,
) -> float:
    """Write a checkpoint if the last one is old; returns when the newest was written."""
    if time.monotonic() - saved_at <= 60 * task.config.checkpoint_minutes:
        return saved_at
    with progress.pause():
        save(model, optimizer, task, now)
    return time.monotonic()


def save(model: ContrastiveModel, optimizer: torch.optim.Optimizer, task: Task, now: Progression) -> None:
    """Write the newest checkpoint (rank 0; the key encoder's BatchNorm statistics are rank 0's own)."""
    if task.folder is None:
        return
    state: dict[str, Any] = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "random": checkpoint.random_state(task.fabric.device),
        "progression": dataclasses.asdict(now),
    }
    checkpoint.save_atomically(state, task.checkpoint)


def restore(model: ContrastiveModel, optimizer: torch.optim.Optimizer, path: Path, device: torch.device) -> Progression:
    """Continue from a checkpoint: model, queue, optimiser, generators, position.

    Raises:
        RunError: the checkpoint cannot be read or belongs to another configuration.
    """
    state = checkpoint.load(path)
    try:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        progression = Progression(**state["progression"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise RunError(f"{path} does not fit this configuration: {str(error).splitlines()[0]}") from error
    checkpoint.restore_random_state(state["random"], device)
    return progression


def _close(batches: Iterator[Batch]) -> None:
    close = getattr(batches, "close", None)
    if close is not None:
        close()
