"""What does an image cost before it reaches the network, by the way that it comes?

    python benchmarks/data_path.py [--data FOLDER] [--image-size 64] [--batch-size 64] [--out FILE]

CPU milliseconds an image (all threads and processes, both views cropped) and images per second of, in turn and again
(A B C A B C ...):

  folder         files decoded at each visit
  folder-pillow  the same without simplejpeg
  packed-jpeg    a pack of JPEG records, decoded at each visit
  packed-raw     a pack of decoded images, each cropped by itself even where all have one size
  cached         decoded images in memory, each cropped by itself even where all have one size
  resident       decoded images of one size in one array, cropped in batches on the device, here the CPU

The crops are uint8, those of `resident` float. Lines with + colour include everything that follows on the device, here
the CPU: photometric operations, normalisation; with processes, in the loader's processes instead of its threads, as
`moco pretrain` does it on a CPU. The images: a folder, or without --data 300 JPEG files of 500 x 375
pixels that are made first. With --entries, `data_memory.py` then says whether memory grows with the number of images.
Prints JSON, and writes it to --out.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from moco import hardware

hardware.settle()  # as the command does, before PyTorch is loaded

import numpy as np
import torch
from PIL import Image
from PIL import __version__ as pillow_version

import moco
from moco.data import jpeg
from moco.data.cache import DecodedCache
from moco.data.crop import batched_resized_crop, sample_crops
from moco.data.folder import FolderSource
from moco.data.loader import ViewLoader
from moco.data.order import EpochOrder
from moco.data.packed import PackedSource
from moco.data.skipped import SkippedFiles
from moco.data.views import two_views
from moco.recipes import configure
from moco.workload import view_recipe
from provenance import provenance

V2 = view_recipe(configure("v2", {}))
PAUSE = 0.01  # seconds without work after which what was begun ahead counts as done
Way = tuple[Callable[[int], None], Callable[[], float]]  # does a number of batches; tells the CPU seconds spent so far


def main() -> None:
    """Measure and write."""
    options = parse()
    torch.set_num_threads(1)
    scratch = Path(tempfile.mkdtemp(prefix="moco-data-path-", dir=options.scratch))
    try:
        folder = Path(options.data) if options.data else photographs(scratch / "photographs")
        report = {"question": __doc__.partition("\n")[0], "costs": costs(folder, scratch, options)}
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if options.entries:
        report["memory"] = memory(options)
    library, origin = jpeg.library(), provenance()
    report |= {
        "options": {
            **{name: value for name, value in vars(options).items() if name not in ("scratch", "out")},
            "data": Path(options.data).name if options.data else "made",
        },
        **origin,
        "versions": {**origin["versions"], "pillow": pillow_version, "simplejpeg": library and library.__version__},
    }
    text = json.dumps(report, indent=2)
    print(text)
    if options.out:
        Path(options.out).parent.mkdir(parents=True, exist_ok=True)
        Path(options.out).write_text(text + "\n", encoding="utf-8")


def parse() -> argparse.Namespace:
    """Options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default=None, help="folder of images")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=6, help="batches in each timing")
    parser.add_argument("--entries", type=int, default=0, help="images of the large folder and pack of the memory part")
    parser.add_argument("--scratch", default=None, help="folder for what is made in the meantime")
    parser.add_argument("--out", default=None, help="JSON file")
    return parser.parse_args()


def photographs(folder: Path) -> Path:
    """300 JPEG files of 500 x 375 pixels: smooth shapes under grain."""
    folder.mkdir()
    for number in range(300):
        generator = np.random.default_rng(number)
        coarse = Image.fromarray(generator.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC)).astype(np.float32)
        grain = smooth + generator.normal(0.0, 5.0, smooth.shape)
        Image.fromarray(grain.clip(0, 255).astype(np.uint8)).save(folder / f"{number:03d}.jpg", quality=90)
    return folder


def costs(folder: Path, scratch: Path, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Medians over the rounds; a round does the batches of one way after those of another."""
    measured: dict[str, list[tuple[float, float]]] = {}
    images = options.steps * options.batch_size
    ways = contestants(folder, scratch, options)
    for number in range(options.rounds + 1):
        for name, (run, cpu) in ways.items():
            start, spent = time.perf_counter(), cpu()
            run(options.steps)
            settle(cpu)
            seconds = time.perf_counter() - start - PAUSE
            if number:  # the first round fills what is filled once
                measured.setdefault(name, []).append((1e3 * (cpu() - spent) / images, images / seconds))
    for run, _ in ways.values():
        run(0)
    return {
        name: {
            "cpu_ms": round(statistics.median(cpu for cpu, _ in values), 4),
            "images_per_second": round(statistics.median(rate for _, rate in values), 1),
        }
        for name, values in measured.items()
    }


def settle(cpu: Callable[[], float]) -> None:
    """Wait until the batches that were begun ahead are done: then as many as were taken have been worked on."""
    before = -1.0
    while cpu() - before > PAUSE / 10:
        before = cpu()
        time.sleep(PAUSE)


def contestants(folder: Path, scratch: Path, options: argparse.Namespace) -> dict[str, Way]:
    """Every way, by name."""
    source = FolderSource(folder)
    packs = {
        kind: PackedSource(moco.pack(folder, out=scratch / kind, format=kind, short_side=0, quiet=True).path)
        for kind in ("jpeg", "raw")
    }
    everything = np.arange(len(source))
    cache = DecodedCache(source, everything, source.shapes(everything), min_side=None)
    cache.fill(SkippedFiles(), workers=options.workers)
    pillow = batches(source, options)
    runs = {
        "folder": batches(source, options),
        "folder-pillow": lambda count: without_simplejpeg(pillow, count),
        "packed-jpeg": batches(packs["jpeg"], options),
        "packed-raw": batches(OneByOne(packs["raw"]), options),
        "cached": batches(OneByOne(cache), options, count=len(source)),
        "folder + colour": batches(source, options, colour=True),
        "folder + colour, processes": batches(source, options, colour=True, processes=True),
    }
    array = cache.array()
    if array is not None:
        runs["resident"] = crop_in_batches(array, options)
        runs["resident + colour"] = color_in_batches(array, options)
    return {name: (run, cpu_seconds) for name, run in runs.items()}


def cpu_seconds() -> float:
    """Of this process and of those that it has forked and that are there."""
    own = Path("/proc/self/task")
    tasks = own.iterdir() if own.is_dir() else ()  # elsewhere than on Linux none is forked
    children = [child for task in tasks for child in (task / "children").read_text().split()]
    ticks = [Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[11:13] for child in children]
    return time.process_time() + sum(int(ticked) for pair in ticks for ticked in pair) / os.sysconf("SC_CLK_TCK")


class OneByOne:
    """The images of a pack or a cache, each by itself."""

    labels, class_names, decoded, name = None, (), True, "images"

    def __init__(self, images: PackedSource | DecodedCache) -> None:
        self.images = images

    def uniform_array(self) -> None:
        """Not as one array."""

    def pixels(self, index: int, *, min_side: int | None = None) -> np.ndarray:
        """As they lie there."""
        return self.images.pixels(index)


def batches(
    source: Any,
    options: argparse.Namespace,
    *,
    colour: bool = False,
    processes: bool = False,
    count: int | None = None,
) -> Callable[[int], None]:
    """Takes as many batches as asked for from a loader that goes on where it was; 0 ends it."""
    count = count or len(getattr(source, "images", source))
    order = EpochOrder(np.arange(count), batch_size=options.batch_size, seed=0)
    device, side = torch.device("cpu"), options.image_size
    loader = ViewLoader(
        source,
        order,
        V2,
        image_size=side,
        device=device,
        skipped=SkippedFiles(),
        workers=options.workers,
        processes=processes,
    )
    iterator: Iterator[Any] = loader.batches(0) if colour else loader.crops(0)

    def run(number: int) -> None:
        for _ in range(number):
            next(iterator)
        if not number:
            iterator.close()  # type: ignore[attr-defined]

    return run


def crop_in_batches(array: np.ndarray, options: argparse.Namespace) -> Callable[[int], None]:
    """Gathers images and crops them in float, both views in one product."""
    order = EpochOrder(np.arange(len(array)), batch_size=options.batch_size, seed=0)
    steps = itertools.count()

    def run(number: int) -> None:
        for step in itertools.islice(steps, number):
            images = torch.from_numpy(array[order.batch(step)]).permute(0, 3, 1, 2)
            sides = [torch.full((2 * len(images),), side) for side in array.shape[1:3]]
            generator = torch.Generator().manual_seed(step)
            boxes = sample_crops(*sides, scale=V2.crop_scale, generator=generator)
            batched_resized_crop(images, boxes, options.image_size, torch.rand(len(boxes), generator=generator) < 0.5)

    return run


def color_in_batches(array: np.ndarray, options: argparse.Namespace) -> Callable[[int], None]:
    """The same with all that follows."""
    order = EpochOrder(np.arange(len(array)), batch_size=options.batch_size, seed=0)
    steps = itertools.count()

    def run(number: int) -> None:
        for step in itertools.islice(steps, number):
            images = torch.from_numpy(array[order.batch(step)]).permute(0, 3, 1, 2)
            two_views(images, V2, options.image_size, torch.Generator().manual_seed(step))

    return run


def without_simplejpeg(run: Callable[[int], None], count: int) -> None:
    """As where it is not installed."""
    library = jpeg.library
    jpeg.library = lambda: None  # type: ignore[assignment]
    try:
        run(count)
        settle(cpu_seconds)
    finally:
        jpeg.library = library


def memory(options: argparse.Namespace) -> Any:
    """What data_memory.py prints."""
    script = Path(__file__).with_name("data_memory.py")
    command = [sys.executable, str(script), "--entries", str(options.entries)]
    command += ["--scratch", options.scratch] if options.scratch else []
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)["mib_and_seconds"]


if __name__ == "__main__":
    main()
