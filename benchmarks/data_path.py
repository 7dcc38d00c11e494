"""What does an image cost before it reaches the network, by the way that it comes?

    python benchmarks/data_path.py [--data FOLDER] [--image-size 64] [--batch-size 64] [--out FILE]

CPU milliseconds an image (both views, on one thread, in the process itself) of, in turn and again (A B C A B C ...):

  folder         files decoded at each visit
  folder-pillow  the same without simplejpeg
  packed-jpeg    a pack of JPEG records, decoded at each visit
  packed-raw     a pack of decoded images
  cached         decoded images in memory
  torchvision    the plain form: files, and torchvision's transforms sample by sample, twice

The first five are `ViewLoader` with MoCo v2's recipe, crops and colours alike. The images: a folder, or without --data
300 JPEG files of 500 x 375 pixels that are made first. With --entries, `data_memory.py` then says whether memory grows
with the number of images. Prints JSON, and writes it to --out.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchvision.transforms import v2

import moco
from moco.data import decode
from moco.data.base import Source
from moco.data.cache import keep_decoded
from moco.data.folder import FolderSource
from moco.data.loader import MakeViews, ViewLoader
from moco.data.order import EpochOrder
from moco.data.packed import PackedSource
from moco.data.recipe_views import RecipeViews
from moco.data.skipped import SkippedFiles
from moco.data.user_transform import TransformViews
from moco.data.views import view_recipe
from moco.recipes import configure
from photographs import make_photographs
from provenance import provenance


def main() -> None:
    """Measure and write."""
    options = parse()
    torch.set_num_threads(1)
    scratch = Path(tempfile.mkdtemp(prefix="moco-data-path-", dir=options.scratch))
    try:
        folder = Path(options.data) if options.data else make_photographs(scratch / "photographs", options)
        found = costs(contestants(folder, scratch, options), options)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    report: dict[str, Any] = {"question": __doc__.partition("\n")[0], "cpu_ms": found}
    if options.entries:
        script = Path(__file__).with_name("data_memory.py")
        command = [sys.executable, str(script), "--entries", str(options.entries)]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        report["memory"] = json.loads(printed)["mib_and_seconds"]
    stated = {name: value for name, value in vars(options).items() if name not in ("scratch", "out")}
    stated["data"] = Path(options.data).name if options.data else "drawings"
    text = json.dumps(
        {**report, "options": stated, "simplejpeg": decode.jpeg_library() is not None, **provenance()}, indent=2
    )
    print(text)
    if options.out:
        Path(options.out).write_text(text + "\n", encoding="utf-8")


def parse() -> argparse.Namespace:
    """Options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default=None, help="folder of images")
    parser.add_argument("--photo", type=int, nargs=2, default=(500, 375), metavar=("W", "H"), help="size of a drawing")
    parser.add_argument("--photos", type=int, default=300, help="how many drawings")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=6, help="batches in each timing")
    parser.add_argument("--entries", type=int, default=0, help="images of the large folder and pack of the memory part")
    parser.add_argument("--scratch", default=None, help="folder for what is made in the meantime")
    parser.add_argument("--out", default=None, help="JSON file")
    return parser.parse_args()


def costs(runs: dict[str, Callable[[], Any]], options: argparse.Namespace) -> dict[str, float]:
    """Median CPU milliseconds an image; the first round fills what is filled once."""
    measured: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(options.rounds + 1):
        for name, step in runs.items():
            start = time.process_time()
            for _ in range(options.steps):
                step()
            measured[name].append(1e3 * (time.process_time() - start) / (options.steps * options.batch_size))
    return {name: round(statistics.median(values[1:]), 4) for name, values in measured.items()}


def contestants(folder: Path, scratch: Path, options: argparse.Namespace) -> dict[str, Callable[[], Any]]:
    """Every way, by name: a function that makes the next batch."""
    source = FolderSource(folder)
    packs = {
        kind: PackedSource(moco.pack(folder, out=scratch / kind, format=kind, short_side=0, quiet=True).path)
        for kind in ("jpeg", "raw")
    }
    cached, _ = keep_decoded(source, np.arange(len(source)), budget=2**40)
    for index in range(len(source)):
        cached.pixels(index)
    pillow = next_of(batches(source, options))
    return {
        "folder": next_of(batches(source, options)),
        "folder-pillow": lambda: without_simplejpeg(pillow),
        "packed-jpeg": next_of(batches(packs["jpeg"], options)),
        "packed-raw": next_of(batches(packs["raw"], options)),
        "cached": next_of(batches(cached, options)),
        "torchvision": next_of(batches(source, options, plain=True)),
    }


def batches(source: Source, options: argparse.Namespace, *, plain: bool = False) -> Iterator[Any]:
    """The loader's batches, made in this process."""
    order = EpochOrder(np.arange(len(source)), batch_size=options.batch_size, seed=0)
    recipe = view_recipe(configure("v2", {}))
    make: MakeViews = RecipeViews(recipe, options.image_size, order, device_type="cpu")
    if plain:
        make = TransformViews((transform(options.image_size),) * 2, seed=0)
    return ViewLoader(source, order, make, device=torch.device("cpu"), skipped=SkippedFiles(), workers=0).batches(0)


def transform(size: int) -> Callable[..., Any]:
    """MoCo v2's augmentation, as torchvision's users write it."""
    return v2.Compose(
        [
            v2.RandomResizedCrop(size, scale=(0.2, 1.0)),
            v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            v2.RandomGrayscale(0.2),
            v2.RandomApply([v2.GaussianBlur(2 * (size // 20) + 1, (0.1, 2.0))], p=0.5),
            v2.RandomHorizontalFlip(),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )


def next_of(iterator: Iterator[Any]) -> Callable[[], Any]:
    """A function that takes the next one."""
    return lambda: next(iterator)


def without_simplejpeg(step: Callable[[], Any]) -> None:
    """As where it is not installed."""
    library = decode.jpeg_library
    decode.jpeg_library = lambda: None  # type: ignore[assignment]
    try:
        step()
    finally:
        decode.jpeg_library = library


if __name__ == "__main__":
    main()
