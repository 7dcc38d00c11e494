"""Does memory grow with the number of images?

    python benchmarks/data_memory.py [--entries 1000000]

The largest resident memory of a process that opens a folder, or a pack, of 10,000 and of --entries images and takes a
few batches from it, made as the command makes them, by the workers of a DataLoader. Also the largest worker; what of
both is their own, neither pages of mapped files, which the system may take back, nor shared with the process that they
were forked from; and the seconds until the first batch. Files are hard links to a few, records repeat a few. Needs
1 GiB of disk in the meantime. Prints JSON.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

FEW = 10_000
FOLDERS = 100
LINKS = 20_000  # names of one file; file systems allow 65,000


def main() -> None:
    """Make, measure in processes of their own, clean up, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--scratch", default=None, help="folder for what is made in the meantime")
    parser.add_argument("--out", default=None)
    parser.add_argument("--measure", default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(take_batches(Path(options.measure))))
        return
    report: dict[str, Any] = {}
    for kind, make in (("folder", make_folder), ("pack", make_pack)):
        for count in (FEW, options.entries):
            scratch = Path(tempfile.mkdtemp(prefix="moco-data-memory-", dir=options.scratch))
            try:
                make(scratch / "data", count)
                command = [sys.executable, __file__, "--measure", str(scratch / "data")]
                output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                report[f"{kind} of {count:,}"] = json.loads(output)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
    from provenance import provenance

    text = json.dumps({"question": __doc__.partition("\n")[0], "mib_and_seconds": report, **provenance()}, indent=2)
    print(text)
    if options.out:
        Path(options.out).write_text(text + "\n", encoding="utf-8")


def photograph(number: int) -> bytes:
    """A JPEG file of 40 x 40 pixels."""
    buffer = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((40, 40), Image.Resampling.BICUBIC).save(buffer, format="JPEG", quality=75)
    return buffer.getvalue()


def make_folder(folder: Path, count: int) -> None:
    """Hard links in 100 class folders, with names as long as ImageNet's."""
    for number in range(count):
        place = folder / f"n{number % FOLDERS:08d}"
        if number < FOLDERS:
            place.mkdir(parents=True)
        original = folder / f".{number // LINKS}"
        if number % LINKS == 0:
            original.write_bytes(photograph(number // LINKS))
        os.link(original, place / f"n{number % FOLDERS:08d}_{number:08d}.JPEG")


def make_pack(folder: Path, count: int) -> None:
    """As `moco pack` would write it, without a folder behind it."""
    from moco.data.fingerprint import Fingerprint
    from moco.data.pack_format import Meta, PackOptions
    from moco.data.packing import Encoded, PackWriter

    records = [Encoded(photograph(number), 40, 40) for number in range(50)]
    classes = tuple(f"n{number:08d}" for number in range(FOLDERS))
    meta = Meta(PackOptions(), classes, str(folder / "gone"), Fingerprint(count, 0, 0, "", {}))
    with PackWriter(folder, meta) as writer:
        for number in range(count):
            name = f"{classes[number % FOLDERS]}/{classes[number % FOLDERS]}_{number:08d}.JPEG"
            writer.add(records[number % len(records)], name=name, label=number % FOLDERS)
        writer.finish()


def take_batches(data: Path) -> dict[str, float]:
    """Open, take a hundred batches of 64, and tell the memory in MiB."""
    import resource

    import torch

    from moco.data.loader import ViewLoader
    from moco.data.order import EpochOrder
    from moco.data.recipe_views import RecipeViews
    from moco.data.skipped import SkippedFiles
    from moco.data.source import open_source
    from moco.data.views import view_recipe
    from moco.recipes import v2

    torch.set_num_threads(1)
    before, start = own_memory(), time.perf_counter()
    source, _ = open_source(data)
    order = EpochOrder(np.arange(len(source)), batch_size=64, seed=0)
    make = RecipeViews(view_recipe(v2()), 32, order, device_type="cpu")
    loader = ViewLoader(source, order, make, device=torch.device("cpu"), skipped=SkippedFiles(), workers=2)
    batches = loader.batches(0)
    next(batches)
    seconds = time.perf_counter() - start
    for _ in itertools.islice(batches, 100):
        pass
    worker = [memory_of(process) for process in children()]
    batches.close()
    own = own_memory()
    return {
        "peak_resident_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "own_mib": round(own, 1),
        "own_above_libraries_mib": round(own - before, 1),
        "worker_processes": len(worker),
        "worker_peak_resident_mib": max((peak for peak, _ in worker), default=0.0),
        "worker_unshared_mib": max((unshared for _, unshared in worker), default=0.0),
        "seconds_to_first_batch": round(seconds, 2),
    }


def children() -> list[int]:
    """This process's, by number."""
    return [int(number) for number in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


def memory_of(process: int) -> tuple[float, float]:
    """MiB that it had resident at most, and those that it shares with nobody."""
    status, rollup = (Path(f"/proc/{process}/{name}").read_text().splitlines() for name in ("status", "smaps_rollup"))
    peak = next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))
    unshared = sum(int(line.split()[1]) / 1024 for line in rollup if line.startswith("Private_"))
    return round(peak, 1), round(unshared, 1)


def own_memory() -> float:
    """MiB that are not pages of files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon"))


if __name__ == "__main__":
    main()
