"""How much of its speed does a run keep beside other processes of normal priority, from its first step on?

    python benchmarks/busy_machine.py [--data FOLDER] [--busy 2] [--steps 40] [--rounds 2] [--out FILE]

Runs `moco pretrain` alone and beside --busy processes that compute without a pause, in turn (A B A B ...), each time
from its start, and compares the images per second that the runs report, after ten steps and over the whole.
Prints JSON, and writes it to --out. The images: a folder, or without --data the picture book.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from provenance import provenance

EARLY = 10  # steps


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", default=None)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--busy", type=int, default=2, help="processes beside the run")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", default=None)
    options = parser.parse_args()
    rates: dict[str, list[dict[str, float]]] = {"alone": [], "busy": []}
    for _ in range(options.rounds):
        rates["alone"].append(rate(options))
        with busy(options.busy):
            rates["busy"].append(rate(options))
    kept = {
        part: statistics.median(found[part] for found in rates["busy"])
        / statistics.median(found[part] for found in rates["alone"])
        for part in ("early", "whole")
    }
    stated = {**vars(options), "data": Path(options.data).name if options.data else "picture book"}
    text = json.dumps(
        {"question": __doc__.partition("\n")[0], "kept": kept, "rates": rates, "options": stated, **provenance()},
        indent=2,
    )
    print(text)
    if options.out:
        Path(options.out).write_text(text + "\n", encoding="utf-8")


@contextlib.contextmanager
def busy(count: int) -> Iterator[None]:
    """So many processes that compute."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def rate(options: argparse.Namespace) -> dict[str, float]:
    """Images per second of a run's first steps, and of all."""
    with tempfile.TemporaryDirectory() as scratch:
        run = Path(scratch) / "run"
        command = [sys.executable, "-m", "moco", "pretrain", *([options.data] if options.data else [])]
        command += ["--out", str(run), "--recipe", "v2", "--backbone", options.backbone, "--stem", "standard"]
        command += ["--image-size", str(options.image_size), "--batch-size", str(options.batch_size)]
        command += ["--dictionary-size", "4096", "--steps", str(options.steps), "--knn-evaluations", "0"]
        command += ["--log-every", str(EARLY), "--quiet"]
        subprocess.run(command, check=True)
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        return {"early": lines[0]["images_per_second"], "whole": lines[-1]["images_per_second"]}


if __name__ == "__main__":
    main()
