"""What does BatchNorm make of a batch that is encoded in chunks (gradient caching)?

    python benchmarks/chunks.py FOLDER TEST --out benchmarks/results/chunks-cpu.json

Gradient: of one step of 512 random images, in chunks against all at once, as the length of the difference by the length
of the gradient, in float64; with BatchNorm and with its layers taken out. kNN: short runs of batch 256 at 16 px on a
labelled folder, all at once and in chunks of 32, over seeds; "in order" leaves v3's keys in their queries' chunks.
Prints tables; --out writes JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import moco
from moco.contrast import EndToEnd, InChunks, end_to_end_loss
from moco.encoder import build_encoder
from moco.training import device
from provenance import provenance

BATCH, CHUNKS = 512, (256, 128, 64, 32)
RUN = {"backbone": "resnet_tiny", "image_size": 16, "batch_size": 256, "temperature": 0.2, "threads": 1, "quiet": True}
RUNS: dict[str, dict[str, Any]] = {
    "queue (v2)": {"recipe": "v2", "dictionary_size": 1024, "key_momentum": 0.99},
    "end-to-end": {"recipe": "v2", "mechanism": "end-to-end"},
    "v3": {"recipe": "v3", "optimizer": "sgd", "hidden_dim": 256, "key_momentum": 0.99, "warmup_epochs": 0},
}


def gradient(chunk_size: int | None, *, batchnorm: bool) -> Tensor:
    """Of f_q, end to end, flat."""
    torch.manual_seed(0)
    encoder = build_encoder("resnet_tiny", image_size=32, embedding_dim=32, head="mlp")
    if not batchnorm:
        for layer in list(encoder.modules()):
            for name, child in layer.named_children():
                if isinstance(child, nn.BatchNorm2d):
                    setattr(layer, name, nn.Identity())
    model = EndToEnd(encoder.double(), embedding_dim=32, temperature=0.2, batchnorm="none").train()
    if chunk_size is not None:
        model.run_encoders_with(query=InChunks(model.encoder_q, chunk_size))
    views = [torch.randn(BATCH, 3, 32, 32, dtype=torch.float64) for _ in range(2)]
    end_to_end_loss(model, *views).loss.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def gradients() -> list[dict[str, Any]]:
    """Relative differences."""
    found = []
    for batchnorm in (True, False):
        whole = gradient(None, batchnorm=batchnorm)
        for size in CHUNKS:
            apart = float((gradient(size, batchnorm=batchnorm) - whole).norm() / whole.norm())
            found.append({"batchnorm": batchnorm, "chunk_size": size, "difference": apart})
    return found


def accuracy(folder: str, test: str, name: str, form: str, seed: int, epochs: int) -> dict[str, Any]:
    """kNN and loss at the end of a run."""
    ordered = device.has_batchnorm
    if form == "in order":
        device.has_batchnorm = lambda _module: False  # which is what decides on the shuffle
    options = {**RUN, **RUNS[name], "chunk_size": None if form == "at once" else 32, "test": test, "epochs": epochs}
    try:
        with tempfile.TemporaryDirectory() as out:
            summary = moco.pretrain(folder, out=f"{out}/run", seed=seed, knn_evaluations=1, **options).summary
    finally:
        device.has_batchnorm = ordered
    kept = ("knn_top1", "knn_random_init", "knn_pixels", "loss", "pretext_accuracy", "flops", "training_seconds")
    return {"run": name, "form": form, "seed": seed, **{name: summary[name] for name in kept}}


def tables(found: list[dict[str, Any]], runs: list[dict[str, Any]]) -> str:
    """What was found, in Markdown."""
    lines = ["| BatchNorm | chunks of | gradient differs by |", "| --- | --- | --- |"]
    lines += [f"| {x['batchnorm']} | {x['chunk_size']} | {x['difference']:.2g} |" for x in found]
    lines += ["", "| run | form | kNN, % | loss | pretext accuracy |", "|" + " --- |" * 5]
    for name, form in dict.fromkeys((x["run"], x["form"]) for x in runs):
        alike = [x for x in runs if (x["run"], x["form"]) == (name, form)]
        knn = [100 * x["knn_top1"] for x in alike]
        loss, pretext = (statistics.mean(x[key] for x in alike) for key in ("loss", "pretext_accuracy"))
        spread = statistics.stdev(knn) if len(knn) > 1 else 0.0
        lines.append(f"| {name} | {form} | {statistics.mean(knn):.1f} ± {spread:.1f} | {loss:.3f} | {pretext:.1%} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("test")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found, runs = gradients(), []
    for seed in range(options.seeds):
        for name in RUNS:
            for form in ("at once", "chunks", *(["in order"] if name == "v3" else [])):
                runs.append(accuracy(options.folder, options.test, name, form, seed, options.epochs))
                print(json.dumps(runs[-1]), flush=True)
    print(tables(found, runs))
    if options.out:
        report = {"question": __doc__.partition("\n")[0], "run": RUN, "runs": RUNS, "epochs": options.epochs}
        report |= {"gradients": found, "results": runs, **provenance()}
        options.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
