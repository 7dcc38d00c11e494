"""What do fewer bits for the dictionary's keys change in the loss, the gradient and a short run?

    python benchmarks/dictionary_dtype.py IMAGES.npz [--steps 200] --out benchmarks/results/dictionary_dtype-cpu.json

Errors are against fp32 for random unit vectors, of which a positive is near its query; kNN accuracies are of short runs
on the images of the array, of which a quarter is held out, on one thread. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

import moco
from moco.contrast import Queue, scored_info_nce
from provenance import provenance

DTYPES = ("fp32", "bf16", "int8")


def errors(size: int, *, temperature: float, samples: int = 256, width: int = 128, seeds: int = 3) -> dict[str, Any]:
    """Of the loss in nats and of the gradient relative to its length, the largest of the seeds."""
    found: dict[str, Any] = {dtype: {"loss": 0.0, "gradient": 0.0} for dtype in DTYPES[1:]}
    for seed in range(seeds):
        results = {}
        for dtype in DTYPES:
            torch.manual_seed(seed)
            queue = Queue(size, width, dtype=dtype)  # type: ignore[arg-type]
            torch.manual_seed(100 + seed)
            q = functional.normalize(torch.randn(samples, width), dim=1)
            k = functional.normalize(q + 0.1 * torch.randn(samples, width), dim=1)
            q.requires_grad_()
            loss, _ = scored_info_nce(q, k, queue.keys, temperature=temperature)
            results[dtype] = (loss.item(), torch.autograd.grad(loss, [q])[0])
        plain, exact = results["fp32"]
        for dtype, error in found.items():
            loss_value, gradient = results[dtype]
            error["loss"] = max(error["loss"], abs(loss_value - plain))
            error["gradient"] = max(error["gradient"], float((gradient - exact).norm() / exact.norm()))
    return found


def accuracies(images: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """kNN accuracy at the end of each run, by precision of the dictionary."""
    found: dict[str, Any] = {dtype: [] for dtype in DTYPES}
    scratch = Path(tempfile.mkdtemp(prefix="moco-dictionary-"))
    options: dict[str, Any] = {
        "recipe": "v2",
        "backbone": arguments.backbone,
        "image_size": 32,
        "batch_size": 64,
        "precision": "fp32",
        "dictionary_size": 1024,
        "key_momentum": 0.99,
        "base_learning_rate": 0.12,
        "steps": arguments.steps,
        "threads": 1,
        "workers": 0,
        "knn_evaluations": 1,
        "held_out": 0.25,
        "quiet": True,
    }
    try:
        for seed in range(arguments.seeds):
            for dtype in DTYPES:
                out = scratch / f"{dtype}-{seed}"
                run = moco.pretrain(images, out=out, seed=seed, dictionary_dtype=dtype, **options)  # type: ignore[arg-type]
                found[dtype].append({name: run.summary[name] for name in ("knn_top1", "loss")})
                shutil.rmtree(out)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    means = {name: statistics.mean(run["knn_top1"] for run in runs) for name, runs in found.items()}
    return {"options": options, "runs": found, "mean_knn_top1": means}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--backbone", default="resnet_tiny")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sizes = [(size, temperature) for size in (4096, 65536) for temperature in (0.07, 0.2)]
    report = {
        "question": __doc__.partition("\n")[0],
        "error": {f"K={size}, temperature {t}": errors(size, temperature=t) for size, t in sizes},
        "short_runs": accuracies(arguments.images, arguments),
        **provenance(),
    }
    text = json.dumps(report, indent=1, default=str)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
