"""How much more than the bare forward pass does `moco embed` take?

    python benchmarks/embedding.py FOLDER [--image-size 128] [--rounds 3] [--out benchmarks/results/embedding.json]

By turns in one process: the backbone on batches that lie in memory already, contiguous and channels-last, and
`moco.embed` from the image files to the finished .npz file, the loading of the model included. The ratio is to the
faster of the two. ResNet-18 with random weights, fp32, batch 32. Writes JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch

import moco
from provenance import provenance

BATCH = 32


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder")
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", default=None)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        times = race(options, Path(scratch))
    ratios = [embed / min(bare) for *bare, embed in zip(*times.values(), strict=True)]
    report = {
        "question": __doc__.partition("\n")[0],
        "seconds": times,
        "ratio": {"median": statistics.median(ratios), "all": ratios},
        "options": {"image_size": options.image_size, "folder": Path(options.folder).name},
        **provenance(),
    }
    text = json.dumps(report, indent=2)
    print(text)
    if options.out:
        Path(options.out).write_text(text + "\n", encoding="utf-8")


def race(options: argparse.Namespace, scratch: Path) -> dict[str, list[float]]:
    """Seconds of both, by turns."""
    size = options.image_size
    run = moco.pretrain(
        out=scratch / "run", backbone="resnet18", image_size=size, steps=1, batch_size=8, knn_evaluations=0, quiet=True
    ).path
    backbone = moco.load(run)
    images = moco.embed(run, options.folder, out=scratch / "warm.npz", quiet=True).images
    batches = torch.randn(images, 3, size, size)
    times: dict[str, list[float]] = {"contiguous": [], "channels_last": [], "embed": []}
    for number in range(options.rounds):
        for layout in ("contiguous", "channels_last"):
            memory_format = torch.channels_last if layout == "channels_last" else torch.contiguous_format
            backbone.to(memory_format=memory_format)
            laid_out = batches.contiguous(memory_format=memory_format).split(BATCH)
            start = time.perf_counter()
            with torch.inference_mode():
                for batch in laid_out:
                    backbone(batch)
            times[layout].append(time.perf_counter() - start)
        start = time.perf_counter()
        moco.embed(run, options.folder, out=scratch / f"{number}.npz", quiet=True)
        times["embed"].append(time.perf_counter() - start)
    return times


if __name__ == "__main__":
    main()
