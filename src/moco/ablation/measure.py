"""How long the runs of a grid will take, from a few real steps: `python -m moco.ablation.measure REQUEST.json`.

Each kind of run trains for a moment in a scratch folder, through the same code as the real one. The report is a file.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from moco import hardware
from moco.ablation.budget import network
from moco.ablation.plan import CHOSEN, steps_of
from moco.ablation.store import write_json
from moco.config import Config
from moco.data.fixed import normalized_batches
from moco.data.views import CIFAR
from moco.errors import MocoError
from moco.evaluation.features import extract_features
from moco.evaluation.knn import knn_accuracy
from moco.evaluation.logistic import fit_logistic
from moco.monitoring import BATCH, CURVE_BANK, CURVE_QUERIES
from moco.pretraining import Pretraining
from moco.recipes import configure
from moco.training.encoder import build_checked_encoder
from moco.training.execution import choose, expected_device
from moco.training.run_folder import RunFolder
from moco.workload import open_workload, view_recipe

FEW, SECONDS, MOST = 3, 2.0, 60  # steps to look at; then as many as take so long, at most so many
_BANK, _QUERIES, _CLASSES, _FITTED = 2_000, 500, 10, 1_000
_NOWHERE = RunFolder(Path())
_PIXELS = 3 * 32 * 32  # width of the raw pixels that the monitor compares


def main(arguments: list[str]) -> int:
    """Measure what the request names; errors of the user's are raised as they are."""
    request = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    configs = [configure(stated.pop("recipe"), stated) for stated in request["configs"]]
    write_json(Path(request["report"]), report(request["data"], configs, request["taken"], request["started"]))
    return 0


def report(data: str | None, configs: list[Config], taken: dict[str, dict[str, Any]], started: float) -> dict[str, Any]:
    """Seconds of a step of each configuration, of the evaluation of a run, and of a process's start.

    "taken" has precision, layout and compile of each network: those that came in, and those chosen here.
    """
    workload = open_workload(data, configs[0])
    opened = time.time() - started
    images = len(workload.pretraining)
    scratch = dataclasses.replace(workload, test=None, held_out=None)
    seconds: list[float | None] = []
    aside: list[float] = []
    for config in configs:
        encoder = build_checked_encoder(config)
        key = network(config)
        if key not in taken:
            settled = choose(config, encoder, total_steps=steps_of(config, images)).config
            taken[key] = {name: getattr(settled, name) for name in CHOSEN}
        # Compiling takes minutes: a compiled run will be faster than what is measured here.
        quick = dataclasses.replace(config, **{**taken[key], "compile": "off"})
        work = Pretraining(quick, _NOWHERE, scratch, encoder, view_recipe(quick), True, 0.0)
        seconds.append(seconds_per_step(work, aside))
    evaluation = None
    if workload.test is not None and workload.held_out is not None:
        evaluation = evaluation_seconds(configs[0], images, len(workload.held_out))
    return {
        "images": images,
        "seconds_per_step": seconds,
        "taken": taken,
        "hardware": hardware.name(expected_device(configs[0])),
        "start_seconds": opened + (aside[0] if aside else 0.0),  # the first trial loaded the libraries
        "evaluation": evaluation,
    }


def seconds_per_step(work: Pretraining, aside: list[float]) -> float | None:
    """Seconds of a step, the first left out; None where the run fails, which it will then do for itself, and on several
    devices, where each trial would start processes of its own.

    What a trial took beside its steps is added to `aside`.
    """
    total = steps_of(work.config, len(work.workload.pretraining))
    if work.config.devices * work.config.num_nodes > 1:
        return None
    try:
        few = _trial(work, FEW, aside)
        if few * FEW >= SECONDS or total <= FEW:
            return few
        return _trial(work, min(MOST, max(FEW, int(SECONDS / few))), aside)
    except (MocoError, RuntimeError, ValueError) as error:  # out of memory is a RuntimeError
        print(f"not measured: {error}", file=sys.stderr)
        return None


def _trial(work: Pretraining, steps: int, aside: list[float]) -> float:
    start = time.perf_counter()
    config = dataclasses.replace(
        work.config,
        steps=steps + 1,
        epochs=None,
        warmup_steps=0,
        log_every=1,
        knn_evaluations=0,
        checkpoint_minutes=1e6,
    )
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "run"
        encoder = build_checked_encoder(config)
        dataclasses.replace(work, config=config, folder=RunFolder(folder), encoder=encoder).run(resume=False)
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    ends = [line["step"] * config.batch_size / line["images_per_second"] for line in lines]
    aside.append(time.perf_counter() - start - ends[-1])
    return float(ends[-1] - ends[0]) / steps


def evaluation_seconds(config: Config, bank: int, queries: int) -> dict[str, float]:
    """Seconds of the figures before training ("baselines"), of the kNN monitor of a run, and of the linear probe.

    From a part of each, scaled up: features by images, kNN by pairs of images, the probe by bank images.
    """
    encoder = build_checked_encoder(config)
    module, width = encoder.backbone.to(expected_device(config)), encoder.feature_dim
    pixels = np.zeros((2 * BATCH, config.image_size, config.image_size, 3), dtype=np.uint8)
    batches = list(normalized_batches(pixels, mean=CIFAR[0], std=CIFAR[1], batch_size=BATCH))
    extract_features(module, batches[:1])
    image = _seconds(lambda: extract_features(module, batches)) / len(pixels)
    labels = torch.arange(_BANK) % _CLASSES

    def pair(width: int) -> float:
        features = torch.randn(_BANK, width)
        neighbors = min(config.num_neighbors, _BANK)
        ask = functools.partial(knn_accuracy, num_neighbors=neighbors, knn_temperature=config.knn_temperature)
        seconds = _seconds(lambda: ask(features, labels, features[:_QUERIES], labels[:_QUERIES]))
        return seconds / (_BANK * _QUERIES)

    whole = (bank + queries) * image + bank * queries * pair(width)
    part = min(bank, CURVE_BANK), min(queries, CURVE_QUERIES)
    curve = sum(part) * image + part[0] * part[1] * pair(width)
    features = torch.randn(_FITTED, width)

    def fit(rows: int) -> float:
        return _seconds(lambda: fit_logistic(features[:rows], labels[:rows], num_classes=_CLASSES, seed=0))

    # Left to itself, the curve takes a small share of the training, and of a short one nothing.
    evaluations = 0 if config.knn_evaluations == "auto" else config.knn_evaluations
    library = fit(2 * _CLASSES)  # and what little there is to fit
    return {
        "baselines": whole + bank * queries * pair(_PIXELS),
        "monitor": whole + evaluations * curve,
        "linear": library + (bank + queries) * image + fit(_FITTED) * bank / _FITTED,
    }


def _seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
