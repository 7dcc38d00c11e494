"""The training loop: steps, schedule, logging, evaluation, checkpoints. Knows no images and no files but the run's."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from moco.config import Config
from moco.contrast import ContrastiveModel
from moco.contrast.collective import shapes_agreed
from moco.errors import DataError, RunError
from moco.training import checkpoint
from moco.training.callbacks import Callback
from moco.training.checkpoint import Position
from moco.training.cost import Cost
from moco.training.mechanism import kind_of_step, set_step_, step_of
from moco.training.metrics import MetricsWriter, Progress
from moco.training.optimizer import leave_out_if_not_finite_
from moco.training.schedule import late_start_factor, learning_rate, run_length, spaced_steps
from moco.training.stop import StopRequest

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Batch = tuple[tuple[Tensor, ...], Tensor]  # views, and source indices of their images
Evaluate = Callable[[nn.Module], Iterable[tuple[str, float]]]


@dataclasses.dataclass(kw_only=True)
class Training:
    """A run while it trains; callbacks see it.

    Attributes:
        config: the run's configuration.
        fabric: device, precision and processes.
        model, optimizer: what learns.
        batches: from a first step, the batch of each following one, on the device.
        bank_rows: by source index, an image's row in the memory bank; None without one.
        steps_per_epoch: steps in a pass over the images.
        evaluate: from the query backbone, named values (a kNN accuracy); None for none.
        checkpoint: file of the newest checkpoint.
        folder: run folder for metrics; None on ranks other than 0.
        position: how far it is.
        loggers: with `log_metrics(values, step)`, as Lightning's; none on ranks other than 0.
        callbacks: called at the moments that they name.
        show_progress: whether to draw the progress bar.
        abandon: what is still to be done where Ctrl-C ends the process in the middle of a step.
        loss: detached loss of the newest step, on the device; None before the first.
        keep_best: writes the backbone as it is, where its kNN accuracy is the best so far; None without an evaluation.
        stop: set it to end the run after this step.
    """

    config: Config
    fabric: Fabric
    model: ContrastiveModel
    optimizer: torch.optim.Optimizer
    batches: Callable[[int], Generator[Batch]]
    bank_rows: Tensor | None
    steps_per_epoch: int
    evaluate: Evaluate | None
    checkpoint: Path
    folder: Path | None
    position: Position
    loggers: Sequence[Any] = ()
    callbacks: Sequence[Callback] = ()
    show_progress: bool = True
    abandon: Callable[[], None] = lambda: None
    loss: Tensor | None = None
    keep_best: Callable[[], None] | None = None
    stop: bool = False

    @property
    def step(self) -> int:
        """Steps done."""
        return self.position.step

    @property
    def total_steps(self) -> int:
        """Optimiser steps in the whole run."""
        return run_length(self.config, self.steps_per_epoch)

    @property
    def ended(self) -> bool:
        """Whether it has come to its end, which may be an early one, and was not stopped."""
        early = self.config.patience is not None and self.position.no_better >= self.config.patience
        return self.step >= self.total_steps or early

    def learning_rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        return learning_rate(self.config, step, self.steps_per_epoch)

    def call(self, moment: str, *arguments: Any) -> None:
        """Call a moment of every callback."""
        for callback in self.callbacks:
            if hasattr(callback, moment):
                getattr(callback, moment)(self, *arguments)


def train(run: Training) -> Progress:
    """Train to the end, or to the next step boundary after Ctrl-C; a checkpoint is written either way.

    Returns the progress with its rates; `run.position` says how far it came.

    Raises:
        KeyboardInterrupt: Ctrl-C before the first step was done, in one that did not end in time (nothing is saved
            then), or in an evaluation (the steps are saved).
        RunError: the loss is no longer a number, or a checkpoint cannot be written.
    """
    now, device, size = run.position, run.fabric.device, run.config.batch_size
    evaluation_steps = spaced_steps(run.total_steps, run.config.knn_evaluations if run.evaluate else 0)
    now.loss_sum, now.accuracy_sum = now.loss_sum.to(device), now.accuracy_sum.to(device)
    cost = Cost(run.fabric, now, bf16=run.config.precision == "bf16")
    first, saved_at = now.step, time.monotonic()
    with ExitStack() as stack:
        progress = stack.enter_context(Progress(run.total_steps * size, now.step * size, show=run.show_progress))
        writer = stack.enter_context(MetricsWriter(run.folder, run.loggers))
        batches = stack.enter_context(closing(run.batches(now.step)))
        signal = stack.enter_context(StopRequest(abandon=run.abandon, watched=run.fabric.world_size == 1))
        run.call("on_train_start")
        while now.step < run.total_steps and not _should_stop(signal, run):
            with progress.waiting():
                batch = _next(run, batches)
            with cost.step(progress, kind_of_step(run.config, now.step, run.total_steps)):
                rate = one_step(run, batch)
            if now.step == first + 1:  # the loader's batches have one shape, as the first step has found
                stack.enter_context(shapes_agreed())
            progress.advance(size)
            run.call("on_step_end")
            if now.step % run.config.log_every == 0 or now.step == run.total_steps:
                _log(run, writer, progress, rate)
            if now.step in evaluation_steps:
                _evaluate(run, writer, progress, signal)
            saved_at = _save_if_due(run, progress, saved_at)
        signal.boundary(begun=now.step > 0)
        progress.stop()
        save(run)
    run.call("on_train_end")
    return progress


def _next(run: Training, batches: Generator[Batch]) -> Batch:
    """The next batch; where the images have gone, the steps done are saved."""
    try:
        return next(batches)
    except DataError as error:
        if run.folder is None or not run.step:
            raise
        save(run)
        raise DataError(f"{error}; {run.step:,} steps are saved, resume the run when the images are back") from error


def one_step(run: Training, batch: Batch) -> float:
    """One step of the run's mechanism at its learning rate, which is returned; nothing waits for the device.

    Where the gradient is infinite or no number, it moves neither f_q nor f_k, and the loss counts as no number.
    """
    config, model, now, (views, indices) = run.config, run.model, run.position, batch
    rate = run.learning_rate(now.step)
    for group in run.optimizer.param_groups:
        group["lr"] = rate * late_start_factor(now.step, group.get("from_step", 0))
    set_step_(model, config, now.step, run.total_steps)
    step = step_of(config, views[2:])
    second = views[1] if run.bank_rows is None else run.bank_rows[indices]
    finite = torch.ones((), dtype=torch.bool)

    def backward(loss: Tensor) -> None:
        nonlocal finite
        run.fabric.backward(loss)
        finite = leave_out_if_not_finite_(run.optimizer)

    loss, accuracy = step(model, views[0], second, run.optimizer, backward=backward)
    run.loss = torch.where(finite, loss, torch.nan)
    now.loss_sum += run.loss
    now.accuracy_sum += accuracy
    now.loss_count += 1
    now.step += 1
    return rate


def _should_stop(signal: StopRequest, run: Training) -> bool:
    stop = signal.came or run.stop or run.ended
    if run.fabric.world_size == 1:
        return stop
    if run.step % run.config.log_every:  # ranks must stop at the same step, and to ask each other costs time
        return False
    return bool(_reduced(run, torch.tensor(float(stop), device=run.fabric.device), "sum") > 0)


def _reduced(run: Training, value: Tensor, operation: str) -> Tensor:
    result = run.fabric.all_reduce(value, reduce_op=operation)
    assert isinstance(result, Tensor)
    return result


def _log(run: Training, writer: MetricsWriter, progress: Progress, rate: float) -> None:
    now = run.position
    means = torch.stack([now.loss_sum, now.accuracy_sum]) / now.loss_count
    if run.fabric.world_size > 1:
        means = _reduced(run, means, "mean")
    loss, accuracy = means.tolist()
    if not math.isfinite(loss):
        raise _diverged(run, loss)
    now.loss_sum.zero_()
    now.accuracy_sum.zero_()
    now.loss_count = 0
    now.last.update(loss=loss, pretext_accuracy=accuracy)
    values = {
        "epoch": now.step / run.steps_per_epoch,
        "loss": loss,
        "pretext_accuracy": accuracy,
        "learning_rate": rate,
        "images_per_second": progress.images_per_second,
        "data_wait": progress.data_wait,
    }
    writer.write(now.step, values)
    run.call("on_log", values)
    progress.say(loss=f"{loss:.3f}")


def _diverged(run: Training, loss: float) -> RunError:
    kept = f"the last good checkpoint is {run.checkpoint}" if run.checkpoint.is_file() else "no checkpoint was written"
    return RunError(f"the loss is {loss} at step {run.step}: lower base_learning_rate, or use precision fp32; {kept}")


def _evaluate(run: Training, writer: MetricsWriter, progress: Progress, signal: StopRequest) -> None:
    if run.folder is None or run.evaluate is None:  # rank 0 evaluates for all
        return
    try:
        with progress.pause("evaluating"):
            values = dict(run.evaluate(run.model.encoder_q))
    except KeyboardInterrupt:  # between two steps nothing is half done
        signal.boundary()
        save(run)
        raise
    last = run.position.last
    last.update(values)
    last["evaluation_seconds"] = last.get("evaluation_seconds", 0.0) + progress.last_pause
    _note_best(run, values.get("knn_top1"))
    writer.write(run.step, {**values, "evaluation_seconds": progress.last_pause})
    run.call("on_log", values)
    progress.say(**{name.removesuffix("_top1"): f"{value:.1%}" for name, value in values.items()})


def _note_best(run: Training, accuracy: float | None) -> None:
    """Keep the weights of the best kNN accuracy; the first of several that are equal."""
    if accuracy is None or run.keep_best is None:
        return
    last = run.position.last
    if accuracy > last.get("knn_best", -math.inf):
        last.update(knn_best=accuracy, knn_best_step=run.step)
        run.position.no_better = 0
        run.keep_best()
    else:
        run.position.no_better += 1


def _save_if_due(run: Training, progress: Progress, saved_at: float) -> float:
    """Write a checkpoint if the last one is old; returns when the newest was written.

    With several ranks after a logged line alone: what it sums up is then empty, and the sums of a rank are its own.
    """
    if time.monotonic() - saved_at <= 60 * run.config.checkpoint_minutes:
        return saved_at
    if run.fabric.world_size > 1 and run.position.loss_count:
        return saved_at
    with progress.pause():
        save(run)
    return time.monotonic()


def save(run: Training) -> None:
    """Write the newest checkpoint (rank 0; the key encoder's BatchNorm statistics are rank 0's own).

    Raises:
        RunError: the loss or a value of the model is no longer a number, or the file cannot be written.
    """
    if run.folder is not None:
        if not checkpoint.is_finite(run.model, run.optimizer, run.position.loss_sum):
            raise _diverged(run, math.nan)
        state: dict[str, Any] = {
            "model": run.model.state_dict(),
            "optimizer": run.optimizer.state_dict(),
            "random": checkpoint.random_state(run.fabric.device),
            "progression": dataclasses.asdict(run.position),
        }
        checkpoint.save_atomically(state, run.checkpoint, keep=run.config.keep_checkpoints)
    run.call("on_checkpoint", run.checkpoint)
