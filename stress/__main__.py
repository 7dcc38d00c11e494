"""`python -m stress`: draws cases, carries them out, prints one line of figures.

    python -m stress --count 100                   100 cases of each kind
    python -m stress --kinds kill --count 1000
    python -m stress --seed 3 --only kill:137      one case alone, as a failure names it

Exit code 0: all cases were as promised; 1: some were not; 130: Ctrl-C (the figures so far are printed).
"""

from __future__ import annotations

import os

os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")  # before PyTorch

import argparse
import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Carry out the cases; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m stress", description=__doc__.partition("\n")[0])
    from stress.suite import KINDS, Suite

    add = parser.add_argument
    add("--seed", type=int, default=0, help="all cases follow from it")
    add("--count", type=int, default=100, help="cases of each kind")
    add("--kinds", nargs="+", choices=KINDS, default=list(KINDS), metavar="KIND", help=", ".join(KINDS))
    add("--only", metavar="KIND:NUMBER", help="one case alone; its folder is kept")
    add("--jobs", type=int, default=1, help="cases side by side")
    add("--seconds", type=float, help="start no further case after so many")
    add("--folder", help="where to work; default a new temporary folder, removed at the end")
    chosen = parser.parse_args(argv)
    return Suite(chosen).carry_out()


if __name__ == "__main__":
    sys.exit(main())
