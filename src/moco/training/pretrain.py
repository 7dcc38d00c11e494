"""One pretraining run: puts images, encoder, algorithm, loop and monitor together."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from moco.config import Config
from moco.data.skipped import SkippedFiles
from moco.data.user_transform import Transform
from moco.data.views import view_recipe
from moco.evaluation.monitor import Monitor, prepare_monitor
from moco.export.backbone import write_backbone
from moco.recipes import write_config
from moco.training import checkpoint, loop
from moco.training.alive import doing
from moco.training.callbacks import Callback, check_callbacks
from moco.training.device import (
    busy_remark,
    convolutions_tried,
    launched,
    make_fabric,
    peak_memory_bytes,
    place,
    settled,
)
from moco.training.encoder import build_checked_encoder
from moco.training.first_lines import about_images
from moco.training.images import RunImages, check_batch, open_images
from moco.training.loggers import Chosen, check_loggers, make_loggers
from moco.training.mechanism import bank_rows, build_model, check_images, remarks
from moco.training.metrics import Progress
from moco.training.optimizer import check_optimizer, make_optimizer
from moco.training.run_folder import RunFolder
from moco.training.run_loader import RunViews
from moco.training.summary import Predicted, backbone_metadata, closing_lines, summarize

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class Pretraining:
    """Everything checked and nothing written yet; `run` does the work.

    Args:
        data, transform, callbacks, loggers, quiet: as `moco.pretrain` takes them.
        module: backbone of the user's own, trained in place; None takes the configuration's.
        config: the configuration.
        folder: the run folder, not yet taken.
        start: time.perf_counter() when the command began.
        images: the data, where they have been opened already.

    Raises:
        MocoError: bad input; nothing has been written.
    """

    def __init__(
        self,
        data: Any,
        config: Config,
        folder: RunFolder,
        *,
        module: nn.Module | None,
        transform: Transform | tuple[Transform, Transform] | None,
        callbacks: Sequence[Callback],
        loggers: Chosen,
        quiet: bool,
        start: float,
        images: RunImages | None = None,
    ) -> None:
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        check_callbacks(callbacks)
        self.folder, self.quiet, self.start = folder, quiet, start
        self.transform, self.callbacks, self.loggers = transform, callbacks, loggers
        with doing("looking at the images", show=not quiet):
            self.images = images or open_images(data, config)
        check_batch(self.images, config)
        check_images(config, len(self.images.pretraining))
        check_optimizer(config)
        check_loggers(loggers)
        self.encoder = build_checked_encoder(config, module)
        self.config, self.reason = settled(
            dataclasses.replace(config, value_range=config.value_range or self.images.source.value_range)
        )
        self.recipe = view_recipe(self.config)
        self.views = RunViews(self.images, self.config, self.recipe, transform)
        self.predicted = Predicted()
        self._training: loop.Training | None = None
        self._new = self._introduced = False

    def settle(self, **options: Any) -> None:
        """Replace options that decide nothing but length, schedule, f_k and the monitor, before the run."""
        self.config = dataclasses.replace(self.config, **options)

    def run(self, *, resume: bool) -> dict[str, Any]:
        """Train, evaluate, export; returns the summary that was written."""
        fabric = make_fabric(self.config)
        with launched(fabric):
            return self._run(fabric, resume=resume)

    def _run(self, fabric: Fabric, *, resume: bool) -> dict[str, Any]:
        first = fabric.is_global_zero
        if first:
            self.folder.take()
        self._new = first and not resume
        try:
            if first and not resume:
                own_views = self.transform is not None
                self.folder.write_text("config.yaml", write_config(self.config, self.images.data, own_views=own_views))
            if first:
                self.introduce()
            gpus = [fabric.device] if fabric.device.type == "cuda" else []
            with convolutions_tried(), torch.random.fork_rng(devices=gpus):
                summary = self._train(fabric, resume=resume)
            fabric.barrier()  # every rank finds what the first one has written
            return summary
        except BaseException:
            self._clear_unbegun()
            raise
        finally:
            if first:
                self.folder.close()

    def introduce(self) -> None:
        """Say what there is to say of the images, once."""
        if not self.quiet and not self._introduced:
            for line in (*self.images.remarks, *about_images(self.images, self.config)):
                self._say(line)
        self._introduced = True

    def _clear_unbegun(self) -> None:
        """Where no step has been done, the same command shall find the folder as this one did."""
        if self._new and (self._training is None or not self._training.step):
            self.folder.clear()

    def _abandon(self) -> None:
        """Ctrl-C ends the process in the middle of a step."""
        self._clear_unbegun()
        if self.folder.checkpoint.is_file():
            self._say(f"a step was given up: continue at the last checkpoint with --out {self.folder.path} --resume")
        self.folder.close()

    def _train(self, fabric: Fabric, *, resume: bool) -> dict[str, Any]:
        config, images, first = self.config, self.images, fabric.is_global_zero
        skipped = SkippedFiles.read(self.folder.skipped) if resume else SkippedFiles()
        model = build_model(self.encoder, config, images=len(images.pretraining))
        place(model, fabric, config)
        model.train()
        optimizer = make_optimizer(model, config)
        monitor = self._monitor(skipped) if first else None
        if resume and self.folder.checkpoint.is_file():
            position = checkpoint.restore(model, optimizer, self.folder.checkpoint, fabric.device)
            self._say(f"continuing at step {position.step}")
        else:
            position = checkpoint.Position(last=self._baselines(monitor))
        if first:
            self.folder.trim_metrics(position.step)
        loader, order = self.views.loader(fabric, skipped)
        self._say(self.views.storage)
        rows = bank_rows(images.pretraining, config)
        run = self._training = loop.Training(
            config=config,
            fabric=fabric,
            model=model,
            optimizer=optimizer,
            batches=loader.batches,
            bank_rows=None if rows is None else rows.to(fabric.device),
            steps_per_epoch=order.steps_per_epoch,
            evaluate=_evaluator(monitor) if monitor else None,
            checkpoint=self.folder.checkpoint,
            folder=self.folder.path if first else None,
            position=position,
            loggers=self._loggers(position.step) if first else (),
            callbacks=self.callbacks,
            show_progress=first and not self.quiet,
            abandon=self._abandon,
        )
        self._announce(run)
        progress = loop.train(run)
        if not first:
            return {"finished": run.step >= run.total_steps}
        return self._finish(run, progress, monitor, skipped)

    def _loggers(self, step: int) -> Sequence[Any]:
        loggers = make_loggers(self.loggers, self.folder.path, step=step)
        for logger in loggers:
            logger.log_hyperparams(dataclasses.asdict(self.config))
        return loggers

    def _monitor(self, skipped: SkippedFiles) -> Monitor | None:
        config, images = self.config, self.images
        if images.test is None or images.held_out is None:
            return None
        with doing("reading the images of the monitor", show=not self.quiet):
            return prepare_monitor(
                images.source,
                images.pretraining,
                images.test,
                images.held_out,
                image_size=config.image_size,
                mean=self.recipe.mean,
                std=self.recipe.std,
                num_neighbors=config.num_neighbors,
                knn_temperature=config.knn_temperature,
                most_images=config.knn_images,
                seed=config.seed,
                bf16=config.precision == "bf16",
                skipped=skipped,
            )

    def _baselines(self, monitor: Monitor | None) -> dict[str, float]:
        """What the reader compares with: raw pixels, and the network before it has learnt anything."""
        if monitor is None:
            return {}
        with doing("evaluating raw pixels and random weights", show=not self.quiet):
            values = monitor.baselines(self.encoder.backbone)
        self._say(
            f"kNN, {monitor.extent}: raw pixels {values['knn_pixels']:.1%}, "
            f"random weights {values['knn_random_init']:.1%}"
        )
        return values

    def _announce(self, run: loop.Training) -> None:
        config, images = self.config, self.images
        self._say(
            f"{len(images.pretraining):,} images from {images.source.name}, {run.total_steps:,} steps of "
            f"{config.batch_size} ({run.total_steps / run.steps_per_epoch:.1f} epochs), recipe {config.recipe}, "
            f"{config.backbone} at {config.image_size} px on {run.fabric.device.type}, "
            f"learning rate {config.learning_rate:g}, BatchNorm cure: {run.model.batchnorm}"
        )
        compiled = ", compiled" if config.compile else ""
        self._say(f"computing in {config.precision}, {config.layout.replace('_', '-')}{compiled} ({self.reason})")
        busy = busy_remark(config, run.fabric.device)
        for remark in [*remarks(config, len(images.pretraining)), *([busy] if busy else [])]:
            self._say(remark)

    def _finish(
        self, run: loop.Training, progress: Progress, monitor: Monitor | None, skipped: SkippedFiles
    ) -> dict[str, Any]:
        finished, last = run.step >= run.total_steps, run.position.last
        if monitor is not None and finished:
            began = time.perf_counter()
            with doing("evaluating", show=not self.quiet):
                last["knn_top1"] = monitor.final(self.encoder.backbone)
            last["evaluation_seconds"] = last.get("evaluation_seconds", 0.0) + time.perf_counter() - began
        write_backbone(
            self.encoder.backbone,
            self.folder.path / "backbone.safetensors",
            metadata=backbone_metadata(self.config, self.recipe, self.encoder),
        )
        if skipped.count:
            skipped.write(self.folder.skipped)
        if line := self.images.source.clipped_line():
            self._say(line)
        summary = summarize(
            self.config,
            finished=finished,
            step=run.step,
            epochs=run.step / run.steps_per_epoch,
            images=len(self.images.pretraining),
            values=last,
            protocol=monitor.protocol if monitor else None,
            verdict=monitor.verdict(last) if monitor and finished else None,
            images_per_second=progress.images_per_second,
            data_wait=progress.data_wait,
            seconds=time.perf_counter() - self.start,
            training_seconds=run.position.seconds,
            peak_memory_bytes=peak_memory_bytes(run.fabric.device),
            skipped=skipped.count,
            predicted_seconds=self.predicted.seconds,
            predicted_memory_bytes=self.predicted.memory_bytes,
        )
        self.folder.write_json("summary.json", summary)
        for line in closing_lines(summary, self.folder.path):
            self._say(line)
        return summary

    def _say(self, message: str) -> None:
        if not self.quiet:
            print(message, file=sys.stderr)


def _evaluator(monitor: Monitor) -> loop.Evaluate:
    def evaluate(encoder: Any) -> Iterator[tuple[str, float]]:
        return monitor.curve(encoder.backbone)

    return evaluate
