"""One pretraining run: puts images, encoder, algorithm, loop and monitor together."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from moco.config import Config
from moco.config_file import write_config
from moco.data.skipped import SkippedFiles
from moco.data.user_transform import Transform
from moco.data.views import view_recipe
from moco.errors import BROKEN_OFF, MocoError
from moco.evaluation.monitor import Monitor
from moco.export.backbone import write_backbone
from moco.export.load import fill
from moco.export.reading import FILE_NAME
from moco.printable import printable
from moco.training import checkpoint, loop
from moco.training.alive import doing
from moco.training.callbacks import Callback, check_callbacks
from moco.training.cost import most_memory
from moco.training.device import (
    convolutions_tried,
    expected_device,
    make_fabric,
    peak_memory_bytes,
    place,
    settled,
)
from moco.training.encoder import build_checked_encoder
from moco.training.figures import check_monitor, evaluator, make_monitor, of_the_users, random_beside
from moco.training.first_lines import about_images, about_run, about_views
from moco.training.images import Earlier, RunImages, open_images, settled_for
from moco.training.loggers import Chosen, check_loggers, make_loggers
from moco.training.mechanism import bank_rows, build_model, check_images, check_memory
from moco.training.metrics import Progress
from moco.training.optimizer import check_optimizer, make_optimizer
from moco.training.processes import launched
from moco.training.resumed import restored, set_length
from moco.training.run_folder import RunFolder
from moco.training.run_loader import RunViews
from moco.training.schedule import run_length
from moco.training.summary import Predicted, backbone_metadata, closing_lines, in_words, summarize

if TYPE_CHECKING:
    from lightning_fabric import Fabric


BEST = "best_backbone.safetensors"  # of the kNN evaluations while training


class Pretraining:
    """Everything checked and nothing written yet; `run` does the work.

    Args:
        data, transform, callbacks, loggers, quiet: as `moco.pretrain` takes them.
        module: backbone of the user's own, trained in place; None takes the configuration's.
        starting: trained tensors of the backbone, by name; None starts from random ones.
        config: the configuration.
        folder: the run folder, not yet taken.
        start: time.perf_counter() when the command began.
        images: the data, where they have been opened already.
        earlier: of the run that is resumed; None for a new one.

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
        starting: Mapping[str, Tensor] | None,
        transform: Transform | tuple[Transform, Transform] | None,
        callbacks: Sequence[Callback],
        loggers: Chosen,
        quiet: bool,
        start: float,
        images: RunImages | None = None,
        earlier: Earlier | None = None,
    ) -> None:
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        check_callbacks(callbacks)
        self.folder, self.quiet, self.start, self.earlier = folder, quiet, start, earlier
        self.transform, self.callbacks, self.loggers = transform, callbacks, loggers
        with doing("looking at the images", show=not quiet):
            self.images = images or open_images(data, config, earlier)
        config = dataclasses.replace(config, channels=self.images.source.channels)
        check_images(config, len(self.images.pretraining))
        check_memory(config, expected_device(config), len(self.images.pretraining))
        check_monitor(self.images, config)
        check_optimizer(config)
        check_loggers(loggers)
        self.encoder = build_checked_encoder(config, module)
        self.begins_trained = starting is not None or of_the_users(self.encoder, module)
        self.random = random_beside(self.encoder, config.seed, module, starting)
        if starting is not None:
            fill(self.encoder.backbone, starting, what=f"init={config.init} for {config.backbone}")
        self.config, self.reason = settled(settled_for(config, self.images), self.encoder)
        self.recipe = view_recipe(self.config)
        self.views = RunViews(self.images, self.config, self.recipe, transform)
        self.predicted, self.digest = Predicted(), ""
        self._training: loop.Training | None = None
        self._new = self._introduced = False

    def settle(self, **options: Any) -> None:
        """Replace options that decide nothing but length, schedule, f_k and the monitor, before the run."""
        self.config = dataclasses.replace(self.config, **options)

    def run(self, *, resume: bool) -> dict[str, Any]:
        """Train, evaluate, export; returns the summary that was written."""
        with launched(fabric := make_fabric(self.config), num_nodes=self.config.num_nodes):
            return self._run(fabric, resume=resume)

    def _run(self, fabric: Fabric, *, resume: bool) -> dict[str, Any]:
        first = fabric.is_global_zero
        self.folder.path = Path(fabric.broadcast(str(self.folder.path)))  # where --out leaves the number to moco
        if first:
            self.folder.take(resume=resume)
        self._new = first and not resume
        try:
            if first and not resume:
                self._write_what_it_is()
            if first:
                self.introduce()
            gpus = [fabric.device] if fabric.device.type == "cuda" else []
            with self.folder.disk_errors(), convolutions_tried(), torch.random.fork_rng(devices=gpus):
                summary = self._train(fabric, resume=resume)
            fabric.barrier()  # every rank finds what the first one has written
            return summary
        except BaseException as error:
            self._clear_unbegun()
            if isinstance(error, MocoError) and self._training is not None and self.folder.config.is_file():
                error.exit_code = BROKEN_OFF
            raise
        finally:
            if first:
                self.folder.close()

    def _write_what_it_is(self, step: int = 0) -> None:
        """The configuration and the images, as they are from this step on; no figures of later ones."""
        self.folder.trim_metrics(step)
        own_views, record = self.transform is not None, self.images.record
        self.folder.write_text("config.yaml", write_config(self.config, self.images.data, own_views=own_views))
        if record is not None:
            self.folder.write_bytes(self.folder.record.name, record.to_bytes())
            self.digest = record.learnt.digest
            self.images = dataclasses.replace(self.images, record=None)  # a million names are not needed again

    def introduce(self) -> None:
        """Say what there is to say of the images, once."""
        if not self.quiet and not self._introduced:
            views = about_views(self.config) if self.transform is None else ()
            for line in (*self.images.remarks, *about_images(self.images, self.config), *views):
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
        skipped = SkippedFiles.of_run(self.folder.path, rank=fabric.global_rank)
        model = build_model(self.encoder, config, images=len(images.pretraining))
        place(model, fabric, config)
        model.train()
        optimizer = make_optimizer(model, config)
        monitor = self._monitor(skipped) if first else None
        loader, order = self.views.loader(fabric, skipped)
        epoch: Any = {"steps_per_epoch": order.steps_per_epoch}
        position, lines = restored(self.folder, model, optimizer, fabric.device, **epoch) if resume else (None, [])
        position = position or checkpoint.Position(last=self._baselines(monitor), **epoch)
        lines += set_length(self.folder, self.earlier.config, config, position) if self.earlier else []
        for line in (*lines, self.views.storage):
            self._say(line)
        if first and resume:
            self._write_what_it_is(position.step)
        rows = bank_rows(images.pretraining, config)
        run = self._training = loop.Training(
            config=config,
            fabric=fabric,
            model=model,
            optimizer=optimizer,
            batches=loader.for_length(run_length(config, position.steps_per_epoch)),
            bank_rows=None if rows is None else rows.to(fabric.device),
            steps_per_epoch=position.steps_per_epoch,
            evaluate=evaluator(monitor) if monitor else None,
            keep_best=(lambda: self._write_weights(BEST)) if monitor else None,
            checkpoint=self.folder.checkpoint,
            folder=self.folder.path if first else None,
            position=position,
            loggers=self._loggers(position.step) if first else (),
            callbacks=self.callbacks,
            show_progress=first and not self.quiet,
            abandon=self._abandon,
        )
        for line in about_run(run, images, self.reason):
            self._say(line)
        progress, memory = loop.train(run), most_memory(fabric)
        return self._finish(run, progress, monitor, skipped, memory) if first else {"finished": run.ended}

    def _loggers(self, step: int) -> Sequence[Any]:
        loggers = make_loggers(self.loggers, self.folder.path, step=step)
        for logger in loggers:
            logger.log_hyperparams(dataclasses.asdict(self.config))
        return loggers

    def _monitor(self, skipped: SkippedFiles) -> Monitor | None:
        with doing("reading the images of the monitor", show=not self.quiet):
            return make_monitor(self.images, self.config, self.recipe, skipped)

    def _baselines(self, monitor: Monitor | None) -> dict[str, float]:
        """What the reader compares with: raw pixels, random weights, and those that the run starts from."""
        if monitor is None:
            return {}
        with doing("evaluating raw pixels and weights before training", show=not self.quiet):
            values = monitor.baselines(self.encoder.backbone, random=self.random, trained=self.begins_trained)
        self.random = None
        self._say(f"kNN, {monitor.extent}: {in_words(values)}")
        if self.begins_trained:  # they may turn out to be the best
            self._write_weights(BEST)
        return values

    def _write_weights(self, name: str) -> None:
        metadata = backbone_metadata(self.config, self.recipe, self.encoder)
        write_backbone(self.encoder.backbone, self.folder.path / name, metadata=metadata)

    def _finish(
        self, run: loop.Training, progress: Progress, monitor: Monitor | None, skipped: SkippedFiles, memory: int
    ) -> dict[str, Any]:
        finished, last = run.ended, run.position.last
        if monitor is not None and finished:
            began = time.perf_counter()
            with doing("evaluating", show=not self.quiet):
                last["knn_top1"] = monitor.final(self.encoder.backbone)
            last["evaluation_seconds"] = last.get("evaluation_seconds", 0.0) + time.perf_counter() - began
        self._write_weights(FILE_NAME)
        skipped.gather()
        if line := self.images.source.closing_line():
            self._say(line)
        summary = summarize(
            self.config,
            finished=finished,
            epochs=run.step / run.steps_per_epoch,
            images=len(self.images.pretraining),
            images_digest=self.digest,
            protocol=monitor.protocol if monitor else None,
            verdict=monitor.verdict(last) if monitor and finished else None,
            images_per_second=progress.images_per_second,
            data_wait=progress.data_wait,
            seconds=time.perf_counter() - self.start,
            position=run.position,
            peak_memory_bytes=max(memory, peak_memory_bytes(run.fabric.device)),
            skipped=skipped.count,
            clipped=self.images.source.clipped,
            doubted_tiffs=self.images.source.doubted,
            first_page_only=self.images.source.first_only,
            not_read=dict(self.images.source.not_read),
            predicted_seconds=self.predicted.seconds,
            predicted_memory_bytes=self.predicted.memory_bytes,
        )
        self.folder.write_json("summary.json", summary)
        for line in closing_lines(summary, self.folder.path):
            self._say(line)
        return summary

    def _say(self, message: str) -> None:
        if not self.quiet:
            print(printable(message), file=sys.stderr)
