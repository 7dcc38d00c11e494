"""The demonstration's picture: samples, curves, nearest neighbours."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch

import moco
from moco.data.picturebook import CLASSES, PictureBook, splits
from moco.evaluation.features import extract_features

mpl.use("Agg")
from matplotlib import pyplot as plt

QUERIES, NEIGHBOURS = 8, 7


def draw(run: moco.Run, frozen: moco.Run, path: Path) -> Path:
    """Write the picture; returns its path."""
    train, test = splits()
    figure = plt.figure(figsize=(13, 7), constrained_layout=True)
    left, right = figure.subfigures(1, 2, width_ratios=[1, 1.15])
    top, bottom = left.subfigures(2, 1)
    _samples(top, train)
    _curves(bottom, run, frozen)
    _neighbours(right, run, train, test)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


def features(run: moco.Run, book: PictureBook) -> torch.Tensor:
    """Backbone features of every page, (N, D), unit norm."""
    model = moco.load(run)
    pages = torch.from_numpy(book.images).permute(0, 3, 1, 2)
    batches = (model.preprocess(batch) for batch in torch.split(pages, 256))
    return torch.nn.functional.normalize(extract_features(model, batches), dim=1)


def _samples(figure, book: PictureBook) -> None:
    figure.suptitle("Some of the 6,000 drawings (no labels are used)")
    axes = figure.subplots(3, 10)
    for row in range(3):
        for label, axis in enumerate(axes[row]):
            axis.imshow(book.images[np.flatnonzero(book.labels == label)[row]])
            axis.axis("off")
            if row == 0:
                axis.set_title(CLASSES[label], fontsize=7)


def _curves(figure, run: moco.Run, frozen: moco.Run) -> None:
    loss_axis, knn_axis = figure.subplots(1, 2)
    for one, name in ((run, "MoCo"), (frozen, "m = 0")):
        lines = [json.loads(line) for line in (one.path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        for axis, key in ((loss_axis, "loss"), (knn_axis, "knn_top1")):
            points = [(line["step"], line[key]) for line in lines if key in line]
            axis.plot(*zip(*points, strict=True), label=name, marker="." if key == "knn_top1" else "")
    loss_axis.set(title="contrastive loss (nats)", xlabel="step")
    knn_axis.set(title="held-out kNN accuracy", xlabel="step", ylim=(0, 1))
    for value, name in ((run.summary["knn_pixels"], "raw pixels"), (run.summary["knn_random_init"], "random weights")):
        knn_axis.axhline(value, linestyle=":", color="grey")
        knn_axis.text(0, value, name, fontsize=7, va="bottom")
    loss_axis.legend()


def _neighbours(figure, run: moco.Run, train: PictureBook, test: PictureBook) -> None:
    figure.suptitle("Held-out drawing, then its nearest among the 6,000 (MoCo)")
    queries = [int(np.flatnonzero(test.labels == label)[0]) for label in range(QUERIES)]
    similarity = features(run, test)[queries] @ features(run, train).T
    nearest = similarity.topk(NEIGHBOURS, dim=1).indices
    axes = figure.subplots(QUERIES, NEIGHBOURS + 1)
    for row, query in enumerate(queries):
        pages = [test.images[query], *train.images[nearest[row].numpy()]]
        for axis, page in zip(axes[row], pages, strict=True):
            axis.imshow(page)
            axis.axis("off")
        axes[row, 0].set_title("query", fontsize=7)
