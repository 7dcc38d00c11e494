"""The throughput benchmark at the sizes of one GPU, one result after the other: `make bench-gpu`.

    python benchmarks/gpu_suite.py [--only photographs photographs-compiled cifar]

photographs  R50, 224 px, batch 256, from JPEG files of 500 x 375; target: 0.97 of the bare step, 4,000 images/s
cifar        the authors' CIFAR demonstration, R18 at 32 px, batch 512; target: 25,000 images/s

Each runs as a process of its own with a limit, so that one that fails or is slow does not take the others with it; its
file has the rounds that were done.
Writes benchmarks/results/throughput-gpu-NAME.{json,png}.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
PHOTOGRAPHS = """--backbone resnet50 --image-size 224 --batch-size 256 --dictionary-size 65536 --photo 500 375
    --photos 3000 --rounds 3 --steps 20"""
CIFAR = """--recipe cifar --stem auto --image-size 32 --batch-size 512 --photo 32 32 --photos 20000 --rounds 3
    --steps 40 --only bare step resident"""
SUITE = {  # options and seconds allowed
    "photographs": (PHOTOGRAPHS, 120),
    "photographs-compiled": (f"{PHOTOGRAPHS} --compile --only bare step resident folder", 240),
    "cifar": (CIFAR, 120),
}


def main() -> int:
    """Run the suite; returns the number of parts that failed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="*", default=list(SUITE), choices=list(SUITE))
    failed = 0
    for name in parser.parse_args().only:
        options, limit = SUITE[name]
        out = HERE / "results" / f"throughput-gpu-{name}"
        print(f"== {name}", flush=True)
        try:
            command = [sys.executable, str(HERE / "throughput.py"), *options.split(), "--out", str(out)]
            failed += subprocess.run(command, timeout=limit).returncode != 0
        except subprocess.TimeoutExpired:
            print(f"{name}: not done after {limit} s", flush=True)
            failed += 1
    return failed


if __name__ == "__main__":
    raise SystemExit(main())
