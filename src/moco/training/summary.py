"""What a finished run says of itself: summary.json, the weights' metadata, the closing lines."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moco.config import Config
from moco.data.preprocess import Preprocessing
from moco.data.skipped import damaged_were
from moco.data.views import ViewRecipe
from moco.encoder import Encoder
from moco.encoder.backbone import GIVEN
from moco.training.checkpoint import Position
from moco.version import versions

# What a run's kNN accuracy is compared with, as sentences call it.
COMPARED = {
    "knn_pixels": "raw pixels",
    "knn_random_init": "random weights",
    "knn_starting_weights": "starting weights",
}
VALUES = ("loss", "pretext_accuracy", "knn_top1", *COMPARED, "knn_best", "knn_best_step")


@dataclasses.dataclass(frozen=True)
class Predicted:
    """What a run was expected to take: seconds from the start of the command, bytes at most; None where unknown."""

    seconds: float | None = None
    memory_bytes: int | None = None


def summarize(config: Config, *, position: Position, protocol: str | None, **measured: Any) -> dict[str, Any]:
    """The content of summary.json; its keys are stable. Shares are 0 to 1, times in seconds, sizes in bytes."""
    values = position.last
    return {
        "finished": measured.pop("finished"),
        "steps": position.step,
        "images_seen": position.step * config.batch_size,
        "training_seconds": position.seconds,
        "flops": position.flops,
        "peak_flops_per_second": position.capacity / max(position.seconds, 1e-9),
        "share_of_peak": position.flops / max(position.capacity, 1e-9),
        **{name: values.get(name) for name in VALUES},
        "knn_protocol": protocol,
        "evaluation_seconds": values.get("evaluation_seconds", 0.0),
        **measured,
        "recipe": config.recipe,
        "mechanism": config.mechanism,
        "dictionary_size": config.dictionary_size or config.batch_size,
        "backbone": config.backbone,
        "seed": config.seed,
        "versions": versions(),
    }


def backbone_metadata(config: Config, recipe: ViewRecipe, encoder: Encoder) -> dict[str, Any]:
    """What a reader of backbone.safetensors must know: architecture, feature width, preprocessing."""
    resize = not recipe.fixed_crop
    preprocessing = Preprocessing(config.image_size, recipe.mean, recipe.std, config.value_range, resize)
    return {
        "mechanism": config.mechanism,
        "architecture": encoder.architecture,
        "stem": encoder.stem,
        "image_size": config.image_size,
        "feature_dim": encoder.feature_dim,
        "preprocessing": preprocessing.as_dict(),
    }


def beside_prediction(summary: dict[str, Any]) -> str:
    """What the run took beside what it was expected to take."""
    seconds, expected = summary["seconds"], summary["predicted_seconds"]
    memory, most = summary["peak_memory_bytes"] / 2**30, (summary["predicted_memory_bytes"] or 0) / 2**30
    return f"took {seconds:,.0f} s, predicted {expected:,.0f} s; memory {memory:.2g} GiB, predicted {most:.2g} GiB"


def in_words(values: Mapping[str, float | None]) -> str:
    """The accuracies that a run's is compared with, as far as they are known."""
    known = {said: values.get(name) for name, said in COMPARED.items()}
    return ", ".join(f"{said} {value:.1%}" for said, value in known.items() if value is not None)


def _prefixed(value: float) -> str:
    """Three digits and a prefix: 0.42e15 becomes "420 T"."""
    power = max(0, min(6, int(math.log10(max(value, 1.0))) // 3))
    return f"{value / 1000**power:.3g} {' kMGTPE'[power].strip()}"


def cost_in_words(summary: Mapping[str, Any]) -> str:
    """What was computed, beside what the devices could have computed in the same seconds."""
    flops, peak = _prefixed(summary["flops"]), _prefixed(summary["peak_flops_per_second"])
    return f"{flops}FLOP, {summary['share_of_peak']:.0%} of the measured peak {peak}FLOP/s"


def closing_lines(summary: dict[str, Any], folder: Path) -> list[str]:
    """The last lines on the screen."""
    lines = []
    if not summary["finished"]:
        lines.append(f"stopped at step {summary['steps']}: continue with --out {folder} --resume")
    if summary["skipped"]:
        lines.append(f"{damaged_were(summary['skipped'])} skipped: see {folder / 'skipped.jsonl'}")
    if summary["knn_top1"] is not None:
        lines.append(f"kNN on held-out images: {summary['knn_top1']:.1%} ({in_words(summary)})")
    if summary["knn_best"] is not None and summary["knn_best_step"] < summary["steps"]:
        lines.append(
            f"best kNN while training: {summary['knn_best']:.1%} at step {summary['knn_best_step']:,}, "
            "whose weights are in best_backbone.safetensors"
        )
    rate, wait = summary["images_per_second"], summary["data_wait"]
    lines.append(f"{rate:,.0f} images/s, {wait:.0%} of the time waiting for data, {summary['seconds']:.0f} s in all")
    lines.append(cost_in_words(summary))
    if summary["predicted_seconds"] and summary["finished"]:
        lines.append(beside_prediction(summary))
    lines.append(f"run folder {folder}: backbone.safetensors, summary.json, metrics.jsonl")
    own = ", backbone=your_module" if summary["backbone"].startswith(GIVEN) else ""
    lines.append(f'to use it: import moco; backbone = moco.load("{folder}"{own})')
    if summary["verdict"] is not None:
        lines.append(f"verdict: {summary['verdict']}")
    return lines
