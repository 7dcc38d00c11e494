"""The papers' mechanism and momentum studies on one GPU, in parts: `make ablations-gpu`.

    python benchmarks/ablations_gpu.py DATA [--minutes 8.5] [--out ablations/cifar-gpu]

As `moco ablate paper DATA --recipe cifar --seeds 0,1 --out OUT --minutes M`, for a machine that lacks what the command
line needs. DATA is a .npz file, a folder, or the name of a torchvision data set, which is downloaded. Goes on where the
last call stopped; exit code 3 means that there is more to do.
"""

from __future__ import annotations

import argparse

import moco


def main() -> int:
    """Work on the grid for so many minutes, print its tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data")
    parser.add_argument("--minutes", type=float, default=8.5)
    parser.add_argument("--out", default="ablations/cifar-gpu")
    options = parser.parse_args()
    result = moco.ablate("paper", options.data, out=options.out, recipe="cifar", seeds=(0, 1), minutes=options.minutes)
    print(result)
    return result.exit_code


if __name__ == "__main__":
    raise SystemExit(main())
