"""The method at work on the embedded picture book: a table and a picture.

    python examples/demo.py --out demo [--seed 0] [--steps N]

Four ways to classify 2,000 held-out drawings by their nearest neighbours among 6,000 unlabelled ones: raw pixels, the
network at random initialisation, MoCo, and MoCo whose key encoder is a plain copy (m = 0, fewer steps).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # OpenMP threads that spin for long crawl on a busy machine

import moco

M0_STEPS = 600  # enough to see how far behind it stays


def main() -> int:
    """Train twice, print the table, draw the picture; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("demo"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=None, help="steps of the main run; default the recipe's")
    arguments = parser.parse_args()
    length = (
        {} if arguments.steps is None else {"steps": arguments.steps, "warmup_steps": min(100, arguments.steps // 4)}
    )
    try:
        run = moco.pretrain(out=_free(arguments.out, "moco"), seed=arguments.seed, **length)
        if not run.finished:
            return 130
        frozen = moco.pretrain(
            out=_free(arguments.out, "m0"),
            seed=arguments.seed,
            key_momentum=0.0,
            steps=min(M0_STEPS, run.summary["steps"]),
            warmup_steps=min(100, run.summary["steps"] // 4),
        )
    except moco.MocoError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2
    if not frozen.finished:
        return 130
    table = make_table(run, frozen)
    print(table)
    (arguments.out / "table.md").write_text(table + "\n", encoding="utf-8")
    from demo_picture import draw

    print(f"picture: {draw(run, frozen, arguments.out / 'demo.png')}")
    return 0


def make_table(run: moco.Run, frozen: moco.Run) -> str:
    """The four accuracies, as Markdown."""
    main_run, m0 = run.summary, frozen.summary
    rows = [
        ("raw pixels", main_run["knn_pixels"], "-", "-"),
        ("random initialisation", main_run["knn_random_init"], "-", "-"),
        ("MoCo, m = 0", m0["knn_top1"], m0["steps"], f"{m0['training_seconds']:.0f} s"),
        ("MoCo", main_run["knn_top1"], main_run["steps"], f"{main_run['training_seconds']:.0f} s"),
    ]
    lines = [
        f"| held-out kNN, picture book, seed {main_run['seed']} | top-1 | steps | training |",
        "| --- | --- | --- | --- |",
    ]
    lines += [f"| {name} | {accuracy:.1%} | {steps} | {seconds} |" for name, accuracy, steps, seconds in rows]
    return "\n".join(lines)


def _free(out: Path, name: str) -> Path:
    """A folder of that name that is not taken, so that the demonstration can be run again."""
    number, path = 1, out / name
    while path.exists():
        number += 1
        path = out / f"{name}-{number}"
    return path


def read_metrics(run: moco.Run) -> list[dict[str, float]]:
    """The lines of a run's metrics.jsonl."""
    return [json.loads(line) for line in (run.path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    raise SystemExit(main())
