"""Images that several tests of comparisons share."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import moco


@pytest.fixture(scope="session")
def coloured(tmp_path_factory):
    """Three classes that differ in colour: train with 20 images each, test with 8."""
    root = tmp_path_factory.mktemp("coloured")
    generator = np.random.default_rng(0)
    for part, count in (("train", 20), ("test", 8)):
        for number, name in enumerate(("blue", "green", "red")):
            (root / part / name).mkdir(parents=True)
            for item in range(count):
                pixels = generator.integers(0, 90, (18, 20, 3), dtype=np.uint8)
                pixels[..., 2 - number] += 120
                Image.fromarray(pixels).save(root / part / name / f"{item}.png")
    return root


def quick(*, protocol="knn", baselines="auto", **options):
    """Options without bars, with few neighbours, and with one epoch where something is trained."""
    few = {"num_neighbors": 3} if protocol == "knn" else {}
    trains = protocol == "finetune" or (protocol != "scores" and baselines == "all")
    short = {"epochs": 1} if trains else {}
    return {"quiet": True, "seed": 0, "protocol": protocol, "baselines": baselines, **few, **short, **options}


@pytest.fixture(scope="session")
def run(coloured, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    options = {
        "recipe": "v2",
        "backbone": "resnet_tiny",
        "image_size": 16,
        "batch_size": 8,
        "dictionary_size": 16,
        "steps": 4,
    }
    moco.pretrain(coloured / "train", out=folder, quiet=True, threads=1, knn_evaluations=0, **options)
    return folder


def evaluate(run, coloured, **options):
    return moco.evaluate(run, train=coloured / "train", test=coloured / "test", **quick(**options))
