"""What methods without contrast reach on the scores of text_train.py: the same texts, splits and crops.

python examples/text/text_baselines.py corpus/{pairs,sentences,captions}.txt --sts STS_FOLDER
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from text_corpus import TextError, read_lines
from text_scores import baselines, held_out_crops, read_sts, retrieval, spearman
from text_train import SPLITS, hold_out


def main() -> int:
    """Print a table; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--sts", type=Path, required=True)
    arguments = parser.parse_args()
    try:
        files, held_out = hold_out([read_lines(path) for path in arguments.files])
        sts = [read_sts(arguments.sts / f"stsb-en-{split}.csv") for split in SPLITS]
    except TextError as error:
        print(f"text_baselines: {error}", file=sys.stderr)
        return 2
    queries, documents = held_out_crops(held_out)
    print("| | STS-B dev | STS-B test | R@1 | MRR |\n| --- | --- | --- | --- | --- |")
    for name, method in baselines(
        list(dict.fromkeys(text for lines in files for line in lines for text in line))
    ).items():
        figures = [*(spearman(method, part) for part in sts), *retrieval(method, queries, documents)]
        print(f"| {name} | " + " | ".join(f"{figure:.1f}" for figure in figures) + " |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
