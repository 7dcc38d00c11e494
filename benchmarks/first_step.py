"""How long after `import torch` has a run done its first step?

    python benchmarks/first_step.py DATA [--image-size 64] [--batch-size 64] [--rounds 5] [--out FILE]

Each round starts new processes that import PyTorch, then moco, and pretrain a ResNet-18 until its first step is done:
once without the kNN monitor, and once with it, whose baselines (raw pixels, random weights) come before the first step.
Seconds, medians over the rounds. Prints JSON, and writes it to --out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from provenance import provenance

PROGRAM = """
import sys, time
start = time.perf_counter()
import torch
imported = time.perf_counter()
data, out, size, batch, evaluations = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
import moco

class Stop:
    def on_step_end(self, run):
        self.seconds = time.perf_counter() - imported
        run.stop = True

stop = Stop()
options = {"image_size": size, "batch_size": batch, "dictionary_size": 1024, "knn_evaluations": evaluations}
options["recipe"] = "v2"
moco.pretrain(data, out=out, quiet=True, callbacks=[stop], backbone="resnet18", epochs=None, steps=9, **options)
print(imported - start, stop.seconds)
"""


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", default=None)
    options = parser.parse_args()
    rounds: dict[str, list[tuple[float, float]]] = {"without monitor": [], "with monitor": []}
    for _ in range(options.rounds):
        rounds["without monitor"].append(seconds(options, 0))
        rounds["with monitor"].append(seconds(options, 5))
    found = {
        "import torch": statistics.median(imported for imported, _ in rounds["without monitor"]),
        **{f"first step after it, {way}": statistics.median(s for _, s in rounds[way]) for way in rounds},
    }
    stated = {**vars(options), "data": Path(options.data).name}
    question = __doc__.partition("\n")[0]
    text = json.dumps({"question": question, "seconds": found, "options": stated, **provenance()}, indent=2)
    print(text)
    if options.out:
        Path(options.out).write_text(text + "\n", encoding="utf-8")


def seconds(options: argparse.Namespace, evaluations: int) -> tuple[float, float]:
    """Of importing PyTorch, and from there to the end of the first step."""
    with tempfile.TemporaryDirectory() as scratch:
        arguments = [options.data, str(Path(scratch) / "run"), options.image_size, options.batch_size, evaluations]
        command = [sys.executable, "-c", PROGRAM, *map(str, arguments)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    imported, first_step = map(float, done.stdout.split())
    return imported, first_step


if __name__ == "__main__":
    main()
