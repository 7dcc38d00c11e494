"""How long do the evaluations of extracted features take?

    python benchmarks/evaluation.py [--rounds 3] [--out benchmarks/results/evaluation.json]

  knn          weighted kNN, 50,000 bank rows, 10,000 queries, width 512, 20 neighbours (target: under 10 s on 2 cores)
  knn_200      the same with 200 neighbours
  knn_faiss    as knn, found by FAISS where it is installed
  fast_probe   logistic regression on 10,000 x 512 features of 10 classes: 15 penalties and the last fit (under 20 s)

The features are synthetic: ten overlapping clusters behind a ReLU, singular values falling as in trained networks; the
probe is right on about three quarters of fresh ones, so that it has to work for it. Prints medians and writes JSON.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from moco.evaluation.knn import knn_predict
from moco.evaluation.logistic import fit_logistic
from provenance import provenance

BANK, QUERIES, PROBE_ROWS, WIDTH, CLASSES = 50_000, 10_000, 10_000, 512, 10


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", default=None, help="JSON file")
    options = parser.parse_args()
    contestants = make_contestants()
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    accuracy: dict[str, float] = {}
    for _ in range(options.rounds):
        for name, run in contestants.items():
            start = time.perf_counter()
            accuracy[name] = run()
            seconds[name].append(time.perf_counter() - start)
    text = json.dumps(report(seconds, accuracy), indent=2)
    print(text)
    if options.out:
        Path(options.out).write_text(text + "\n", encoding="utf-8")


def make_contestants() -> dict[str, Callable[[], float]]:
    """Each gives its accuracy on the queries, 0 to 1."""
    bank, bank_labels = features(BANK, seed=0)
    queries, truth = features(QUERIES, seed=1)
    probe_rows, probe_labels = features(PROBE_ROWS, seed=2)

    def knn(num_neighbors: int, search: str) -> float:
        options = {"num_neighbors": num_neighbors, "knn_temperature": 0.07, "search": search}
        return accuracy_of(knn_predict(bank, bank_labels, queries, **options), truth)

    def fast_probe() -> float:
        probe = fit_logistic(probe_rows, probe_labels, num_classes=CLASSES, seed=0)
        return accuracy_of(probe(queries).argmax(dim=1), truth)

    contestants = {"knn": lambda: knn(20, "blocks"), "knn_200": lambda: knn(200, "blocks"), "fast_probe": fast_probe}
    if importlib.util.find_spec("faiss"):
        contestants["knn_faiss"] = lambda: knn(20, "faiss")
    return contestants


def features(rows: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """(rows, WIDTH) float32 and (rows,) labels; the clusters are the same for every seed."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, CLASSES, (rows,), generator=generator)
    centres = 0.11 * torch.randn(CLASSES, WIDTH, generator=torch.Generator().manual_seed(99))
    scale = torch.linspace(0, -3, WIDTH).exp()
    return torch.relu((centres[labels] + torch.randn(rows, WIDTH, generator=generator)) * scale + 0.1), labels


def accuracy_of(answers: Tensor, truth: Tensor) -> float:
    """Share of right answers."""
    return (answers == truth).double().mean().item()


def report(seconds: dict[str, list[float]], accuracy: dict[str, float]) -> dict:
    """Medians, and all that is needed to repeat them."""
    return {
        "question": "seconds for the evaluation of extracted features",
        "seconds": {name: {"median": statistics.median(all_), "all": all_} for name, all_ in seconds.items()},
        "accuracy": accuracy,
        "load_average": os.getloadavg(),
        **provenance(),
    }


if __name__ == "__main__":
    main()
