"""Run a track: `python -m benchmarks.speedrun TRACK DATA [--entries ...] [--seeds 0 1 2 3 4] [--minutes 8.5]`.

    TRACK   cifar-cpu, imagenette-cpu, cifar-gpu, imagenette-gpu
    DATA    CIFAR10, an .npz file, or a folder with the parts train and val; see `tracks.prepare`

Each point is a run of its own length in a process of its own; for each entry one more run, of the shortest length,
counts FLOPs. Writes OUT/results.json after each point, then OUT/curves.png and a table. Points that are there already
are not run again. With --minutes no more is begun after so many; exit code 3 means that there is more to do.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from benchmarks.provenance import provenance
from benchmarks.speedrun.one import Job
from benchmarks.speedrun.plot import plot, table
from benchmarks.speedrun.tracks import TRACKS, Track, prepare

from moco.atomic import write_json

ENTRIES = (
    "authors_v2",
    "fitted",
    "fast",
    "lightly_moco",
    "lightly_simclr",
    "lightly_train_simclr",
    "lightly_train_densecl",
)
MORE_TO_DO = 3
Row = dict[str, Any]


def main(arguments: list[str] | None = None) -> int:
    """Run what is missing, write, print the table."""
    options = parse(arguments)
    track = TRACKS[options.track]
    track = dataclasses.replace(track, epochs=tuple(options.epochs)) if options.epochs else track
    name = options.track + ("-validation" if options.validation else "")
    if track.accelerator == "cuda" and not torch.cuda.is_available():
        raise SystemExit(f"{options.track} needs a GPU, and there is none: choose a track that ends in -cpu")
    out = options.out or Path("speedrun") / name
    data = prepare(track, options.data, out / "data", validation=options.validation)
    file, deadline = out / "results.json", time.monotonic() + 60 * options.minutes
    rows, absent = earlier(file), set()
    for job in points(track, options, str(data)):
        if (job.entry, job.rate) in absent or is_there(rows, job):
            continue
        left = deadline - time.monotonic()
        if left <= 0:
            print(f"{len(rows)} points in {file}; run it again for the others")
            return MORE_TO_DO
        found = run(job, left)
        if "absent" in found:
            print(f"{job.entry}: skipped, {found['absent']}", flush=True)
            absent.add((job.entry, job.rate))
        elif "late" in found and left < 60 * options.minutes - 1:  # it has not had all the time
            continue
        else:
            rows = [row for row in rows if not (row.items() >= identity(job).items())]
            rows.append({**identity(job), **found, **provenance(), "threads": job.threads})
            print(json.dumps({**identity(job), **found}), flush=True)
            write(file, name, track, rows)
    return finish(out, name, track, rows, options.clock)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("track", choices=TRACKS)
    parser.add_argument("data", type=Path)
    parser.add_argument("--entries", nargs="+", default=list(ENTRIES), help="names of files in entries/")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--epochs", nargs="+", type=int, help="lengths, instead of the track's")
    parser.add_argument("--minutes", type=float, default=1440, help="begin no more after so many")
    parser.add_argument("--threads", type=int, help="of tensor operations; PyTorch's choice if left out")
    parser.add_argument("--workers", type=int, default=min(16, os.cpu_count() or 1))
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="of the table and the plot")
    parser.add_argument("--rates", nargs="+", type=float, default=[1.0], help="factors of an entry's learning rate")
    parser.add_argument("--validation", action="store_true", help="for tuning: ask images of the training part")
    parser.add_argument("--out", type=Path)
    return parser.parse_args(arguments)


def points(track: Track, options: argparse.Namespace, data: str) -> Iterator[Job]:
    """Seed by seed, the short ones first, entries side by side; each entry is counted before its first point."""
    shared = {
        "track": options.track,
        "image_size": track.image_size,
        "backbone": track.backbone,
        "accelerator": track.accelerator,
        "data": data,
        "threads": options.threads,
        "workers": options.workers,
    }
    for seed in options.seeds:
        for epochs in sorted(track.epochs):
            for entry, rate in itertools.product(options.entries, options.rates):
                job = Job(entry=entry, epochs=epochs, seed=seed, rate=rate, **shared)
                yield job
                if (seed, epochs, rate) == (options.seeds[0], min(track.epochs), options.rates[0]):
                    yield dataclasses.replace(job, count=True)


def identity(job: Job) -> Row:
    """What tells one point from another."""
    return {"entry": job.entry, "epochs": job.epochs, "seed": job.seed, "rate": job.rate, "count": job.count}


def is_there(rows: list[Row], job: Job) -> bool:
    """Whether a point has its figures, or has been found too long; one that failed is tried again."""
    return any(row.items() >= identity(job).items() and "failed" not in row for row in rows)


def run(job: Job, seconds: float) -> Row:
    """One point in its own process; what went wrong, if it did."""
    command = [sys.executable, "-m", "benchmarks.speedrun.one", json.dumps(dataclasses.asdict(job))]
    # A session of its own, so that what is late ends with its workers and programs.
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        output, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        return {"late": round(seconds)}
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.returncode:
        return {"failed": (errors.strip().splitlines() or [f"exit code {process.returncode}"])[-1][:300]}
    return dict(json.loads(output.splitlines()[-1]))


def earlier(file: Path) -> list[Row]:
    """The points of an earlier part."""
    return list(json.loads(file.read_text(encoding="utf-8"))["runs"]) if file.is_file() else []


def write(file: Path, name: str, track: Track, rows: list[Row]) -> None:
    """All points, each with where it comes from."""
    report = {"track": name, **dataclasses.asdict(track), "runs": rows}
    write_json(file, report)


def finish(out: Path, name: str, track: Track, rows: list[Row], clock: str) -> int:
    """Table and curves of what there is."""
    print(table(rows, clock=clock))
    if any("knn_top1" in row for row in rows):
        plot(rows, out / "curves.png", title=track.title, clock=clock)
    return int(any("failed" in row for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
