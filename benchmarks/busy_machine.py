"""How much of its speed does a run keep beside other processes of normal priority, from its first step on?

    python benchmarks/busy_machine.py [--data FOLDER] [--busy 2] [--steps 40] [--rounds 2] [--out FILE]

Runs `moco pretrain` as it is, with one thread, and as two processes; each alone and beside --busy processes that
compute without a pause, in turn (A B A B ...), each time from its start. Compares the images per second that the runs
report, after ten steps and over the whole: beside the busy processes as a share of the same run alone (kept), and of
the run as it is alone. Prints JSON, and writes it to --out. The images: a folder, or without --data the picture book.
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
WAYS: dict[str, list[str]] = {
    "as it is": [],
    "one thread": ["--threads", "1"],
    "two processes": ["--accelerator", "cpu", "--devices", "2"],
}


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
    rates: dict[str, dict[str, list[dict[str, float]]]] = {way: {"alone": [], "busy": []} for way in WAYS}
    for _ in range(options.rounds):
        for way in WAYS:
            rates[way]["alone"].append(rate(options, WAYS[way]))
            with busy(options.busy):
                rates[way]["busy"].append(rate(options, WAYS[way]))
    found = {way: compared(rates[way], rates["as it is"]["alone"]) for way in WAYS}
    stated = {**vars(options), "data": Path(options.data).name if options.data else "picture book"}
    text = json.dumps(
        {"question": __doc__.partition("\n")[0], "found": found, "rates": rates, "options": stated, **provenance()},
        indent=2,
    )
    print(text)
    if options.out:
        Path(options.out).write_text(text + "\n", encoding="utf-8")


def compared(rates: dict[str, list[dict[str, float]]], plain: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Shares of the speed alone, of the same way and of the plain one."""

    def median(rounds: list[dict[str, float]], part: str) -> float:
        return statistics.median(found[part] for found in rounds)

    return {
        part: {
            "kept": median(rates["busy"], part) / median(rates["alone"], part),
            "busy, of the run as it is": median(rates["busy"], part) / median(plain, part),
            "alone, of the run as it is": median(rates["alone"], part) / median(plain, part),
        }
        for part in ("early", "whole")
    }


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


def rate(options: argparse.Namespace, way: list[str]) -> dict[str, float]:
    """Images per second of a run's first steps, and of all."""
    with tempfile.TemporaryDirectory() as scratch:
        run = Path(scratch) / "run"
        command = [sys.executable, "-m", "moco", "pretrain", *([options.data] if options.data else [])]
        command += ["--out", str(run), "--recipe", "v2", "--backbone", options.backbone, "--stem", "standard"]
        command += ["--image-size", str(options.image_size), "--batch-size", str(options.batch_size)]
        command += ["--dictionary-size", "4096", "--steps", str(options.steps), "--knn-evaluations", "0"]
        command += ["--log-every", str(EARLY), "--quiet", *way]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        return {"early": lines[0]["images_per_second"], "whole": lines[-1]["images_per_second"]}


if __name__ == "__main__":
    main()
