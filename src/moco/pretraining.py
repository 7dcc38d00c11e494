"""One pretraining run: puts data, encoder, algorithm, loop and monitor together."""

from __future__ import annotations

import dataclasses
import functools
import sys
import time
from typing import Any

import torch
import yaml

from moco.config import Config
from moco.contrast import ContrastiveModel
from moco.data.loader import ViewLoader
from moco.data.order import EpochOrder
from moco.data.skipped import SkippedFiles
from moco.data.views import ViewRecipe
from moco.encoder import Encoder
from moco.export.backbone import write_backbone
from moco.hardware import convolutions_tried
from moco.mechanisms import batches_of, build_model, check_images, remarks, views_of
from moco.monitoring import Monitoring, prepare
from moco.summary import backbone_metadata, closing_lines, summarize
from moco.training import loop
from moco.training.allowance import figure_images
from moco.training.encoder import build_checked_encoder
from moco.training.engine import make_fabric, peak_memory_bytes, place
from moco.training.execution import choose
from moco.training.lanes import LANES, Lanes
from moco.training.metrics import Progress
from moco.training.optimizer import check_optimizer, make_optimizer
from moco.training.run_folder import RunFolder
from moco.workload import Workload, open_workload, view_recipe

Judged = tuple[Monitoring | None, SkippedFiles]


@dataclasses.dataclass
class Pretraining:
    """Everything checked and nothing written yet; `run` does the work.

    Attributes:
        config: the configuration.
        folder: the run folder, not yet taken.
        workload: images to learn from and images to be judged by.
        encoder: the query encoder at its random start.
        recipe: crop and photometric operations.
        quiet: neither messages nor a progress bar.
        start: time.perf_counter() when the command began.
        reason: why precision and layout are what they are.
        lanes: the processes where the two halves of a batch are encoded at once.
        baselines: knn_pixels and knn_random_init where another run has found them; None computes them.
    """

    config: Config
    folder: RunFolder
    workload: Workload
    encoder: Encoder
    recipe: ViewRecipe
    quiet: bool
    start: float
    reason: str = ""
    lanes: Lanes | None = None
    baselines: dict[str, float] | None = None

    @classmethod
    def prepare(cls, data: Any, config: Config, folder: RunFolder, *, quiet: bool, start: float) -> Pretraining:
        """Open the images and build the model.

        Raises:
            MocoError: bad input; nothing has been written.
        """
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        workload = open_workload(data, config)
        check_images(config, len(workload.pretraining))
        check_optimizer(config)
        encoder = build_checked_encoder(config)
        with convolutions_tried():
            execution = choose(config, encoder, total_steps=_total_steps(config, workload))
        return cls(
            execution.config,
            folder,
            workload,
            encoder,
            view_recipe(config),
            quiet,
            start,
            reason=execution.reason,
            lanes=execution.lanes,
        )

    def run(self, *, resume: bool) -> dict[str, Any]:
        """Train, evaluate, export; returns the summary that was written."""
        config = self.config
        fabric = make_fabric(config)
        fabric.launch()
        first = fabric.is_global_zero
        if first:
            self.folder.take()
        try:
            if first and not resume:
                stored = {"data": self.workload.data, **_yaml_ready(config)}
                self.folder.write_text("config.yaml", yaml.safe_dump(stored, sort_keys=False))
            gpus = [fabric.device] if fabric.device.type == "cuda" else []
            with convolutions_tried(), torch.random.fork_rng(devices=gpus):
                return self._train(fabric, resume=resume)
        finally:
            if self.lanes is not None:
                self.lanes.close()
            if first:
                self.folder.close()

    def _train(self, fabric: Any, *, resume: bool) -> dict[str, Any]:
        config, workload = self.config, self.workload
        first = fabric.is_global_zero
        skipped = SkippedFiles.read(self.folder.skipped) if resume else SkippedFiles()
        model = build_model(self.encoder, config, images=len(workload.pretraining))
        place(model, fabric, config, self.lanes)
        model.train()
        optimizer = make_optimizer(model, config)
        monitoring = self._monitoring(skipped) if first else None
        if resume and self.folder.checkpoint.is_file():
            now = loop.restore(model, optimizer, self.folder.checkpoint, fabric.device)
            self._say(f"continuing at step {now.step}")
        else:
            now = loop.Progression(last=self._baselines(monitoring))
        if monitoring:
            now.last["monitor_seconds"] = now.last.get("monitor_seconds", 0.0) + monitoring.reading_seconds
        if first:
            self.folder.trim_metrics(now.step)
        order = EpochOrder(workload.pretraining, batch_size=config.batch_size, seed=config.seed)
        loader = self._loader(fabric, order, skipped)
        task = loop.Task(
            config=config,
            fabric=fabric,
            batches=batches_of(loader, config),
            steps_per_epoch=order.steps_per_epoch,
            evaluate=functools.partial(_curve, monitoring) if monitoring else None,
            checkpoint=self.folder.checkpoint,
            folder=self.folder.path if first else None,
            show_progress=first and not self.quiet,
        )
        self._announce(fabric, task, model, loader)
        progress = loop.train(model, optimizer, task, now)
        if self.lanes is not None:  # what follows has the cores to itself
            self.lanes.close()
        if not first:
            return {"finished": now.step >= task.total_steps}
        return self._finish(fabric, task, now, progress, (monitoring, skipped))

    def _loader(self, fabric: Any, order: EpochOrder, skipped: SkippedFiles) -> ViewLoader:
        return ViewLoader(
            self.workload.source,
            order,
            self.recipe,
            image_size=self.config.image_size,
            device=fabric.device,
            workers=self.config.workers,
            rank=fabric.global_rank,
            world_size=fabric.world_size,
            skipped=skipped,
            cache_bytes=int(self.config.cache_gib * 2**30),
            views=views_of(self.config),
            processes=True,
            fuse=self.config.compile == "on",
            show_progress=fabric.is_global_zero and not self.quiet,
        )

    def _baselines(self, monitoring: Monitoring | None) -> dict[str, float]:
        """What the reader compares with: raw pixels, and the network before it has learnt anything."""
        if monitoring is None:
            return {}
        if self.baselines is not None:
            return {**self.baselines, **monitoring.expected(monitoring.seconds_per_image(self.encoder.backbone))}
        values = monitoring.baselines(self.encoder.backbone)
        left_out = f" ({monitoring.left_out} left out, see --knn-images)" if monitoring.left_out else ""
        self._say(
            f"kNN, {monitoring.extent}{left_out}: raw pixels {values['knn_pixels']:.1%}, "
            f"random weights {values['knn_random_init']:.1%}"
        )
        return values

    @property
    def figure_images(self) -> int:
        """How many labelled images the monitor takes at most."""
        return figure_images(self.config, _total_steps(self.config, self.workload))

    def _monitoring(self, skipped: SkippedFiles) -> Monitoring | None:
        workload = self.workload
        if workload.test is None or workload.held_out is None:
            return None
        return prepare(
            workload.source,
            workload.pretraining,
            workload.test,
            workload.held_out,
            config=self.config,
            recipe=self.recipe,
            skipped=skipped,
            most=self.figure_images,
        )

    def _announce(self, fabric: Any, task: loop.Task, model: ContrastiveModel, loader: ViewLoader) -> None:
        config, workload = self.config, self.workload
        images = len(workload.pretraining)
        self._say(
            f"{images:,} images from {workload.source.name}, {task.total_steps:,} steps of {config.batch_size} "
            f"({task.total_steps / task.steps_per_epoch:.1f} epochs), recipe {config.recipe}, {config.backbone} at "
            f"{config.image_size} px on {fabric.device.type}, "
            f"learning rate {config.learning_rate:g}, BatchNorm cure: {model.batchnorm}"
        )
        self._say(loader.storage)
        manner = (", compiled" if config.compile == "on" else "") + (", two lanes" if config.lanes == "on" else "")
        self._say(f"computing in {config.precision}, {config.layout.replace('_', '-')}{manner} ({self.reason})")
        for remark in remarks(config, images):
            self._say(remark)

    def _finish(
        self, fabric: Any, task: loop.Task, now: loop.Progression, progress: Progress, judged: Judged
    ) -> dict[str, Any]:
        monitoring, skipped = judged
        finished = now.step >= task.total_steps
        if monitoring is not None and finished:
            started = time.perf_counter()
            now.last["knn_top1"] = monitoring.final(self.encoder.backbone)
            now.last["monitor_seconds"] += time.perf_counter() - started
        write_backbone(
            self.encoder.backbone,
            self.folder.path / "backbone.safetensors",
            metadata=backbone_metadata(self.config, self.recipe, self.encoder),
        )
        if skipped.count:
            skipped.write(self.folder.skipped)
        summary = summarize(
            self.config,
            finished=finished,
            step=now.step,
            epochs=now.step / task.steps_per_epoch,
            images=len(self.workload.pretraining),
            values=now.last,
            protocol=monitoring.protocol if monitoring else None,
            images_per_second=progress.images_per_second,
            data_wait=progress.data_wait,
            seconds=time.perf_counter() - self.start,
            training_seconds=now.seconds,
            peak_memory_bytes=peak_memory_bytes(fabric.device, lanes=LANES if self.lanes is not None else 0),
            skipped=skipped.count,
        )
        self.folder.write_json("summary.json", summary)
        for line in closing_lines(summary, self.folder.path):
            self._say(line)
        return summary

    def _say(self, message: str) -> None:
        if not self.quiet:
            print(message, file=sys.stderr)


def _total_steps(config: Config, workload: Workload) -> int:
    return config.steps or (config.epochs or 0) * (len(workload.pretraining) // config.batch_size)


def _curve(monitoring: Monitoring, encoder: Any) -> list[tuple[str, float]]:
    return list(monitoring.curve(encoder.backbone))


def _yaml_ready(config: Config) -> dict[str, Any]:
    return {
        name: list(value) if isinstance(value, tuple) else value for name, value in dataclasses.asdict(config).items()
    }
