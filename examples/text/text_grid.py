"""Where negatives come from, and K x m: the score on STS-B's dev split after a short training of each.

    python examples/text/text_grid.py corpus/{pairs,captions}.txt --sts STS_FOLDER --out out --steps 600

Takes the options of text_train.py, and writes `grid.json` to --out. The test split is not looked at.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from text_corpus import TextError
from text_train import parse, prepare, train_and_score

SIZES = (64, 256, 1024, 4096)
MOMENTA = (0.0, 0.5, 0.8, 0.95, 0.99)
PUBLISHED = 256, 0.8  # K and m that text prefers, in the literature


def cells() -> list[tuple[str, int, float]]:
    """Negatives, K and m of each training: three sources of negatives, then the grid of queue and batch together."""
    size, momentum = PUBLISHED
    sources = [(negatives, size, momentum) for negatives in ("batch", "queue", "both")]
    return list(dict.fromkeys([*sources, *(("both", k, m) for k in SIZES for m in MOMENTA)]))


def main(arguments: Sequence[str] | None = None) -> int:
    """Train each cell, print and write what it reached; returns the exit code."""
    options = parse(arguments)
    try:
        task = prepare(options)
        task.sts.pop("test", None)
        found = []
        for negatives, size, momentum in cells():
            cell = {"negatives": negatives, "dictionary_size": size, "key_momentum": momentum}
            _, summary = train_and_score(task, argparse.Namespace(**{**vars(options), **cell}))
            found.append({**cell, **summary})
            print(json.dumps(found[-1]), flush=True)
            options.out.mkdir(parents=True, exist_ok=True)
            (options.out / "grid.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    except (TextError, ValueError) as error:
        print(f"text_grid: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
