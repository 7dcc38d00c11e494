"""From real photographs to a backbone, and what reading them costs in memory."""

from __future__ import annotations

import gc
import json
import math
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

import moco
from moco.data.source import open_source
from moco.encoder import build_backbone
from tests.real_data import cifar10, imagenette

IMAGE_SIZE = 64
SHORT = {
    "backbone": "resnet_tiny",
    "batch_size": 32,
    "steps": 12,
    "dictionary_size": 96,
    "threads": 1,
    "workers": 2,
    "log_every": 1,
    "quiet": True,
}
SUMMARY_KEYS = {
    *("loss", "knn_top1", "knn_random_init", "knn_pixels", "images_per_second", "data_wait", "seconds", "steps"),
    *("peak_memory_bytes", "skipped", "seed", "versions", "finished", "images", "epochs", "training_seconds"),
}


def metrics(run: moco.Run) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]


def linked(source: Path, target: Path, each: int) -> Path:
    """A folder that shows the first images of each class of another one, without copying them."""
    for folder in sorted(source.iterdir()):
        (target / folder.name).mkdir(parents=True)
        for file in sorted(folder.iterdir())[:each]:
            (target / folder.name / file.name).symlink_to(file)
    return target


def check_whole(run: moco.Run) -> None:
    """The run folder is complete, and its weights fit the architecture that they name, tensor by tensor."""
    assert run.finished
    assert set(run.summary) >= SUMMARY_KEYS
    assert run.summary["skipped"] == 0
    assert json.loads((run.path / "summary.json").read_text()) == run.summary
    for name in ("config.yaml", "metrics.jsonl", "backbone.safetensors", "checkpoints/last.pt"):
        assert (run.path / name).stat().st_size > 0
    with safe_open(run.weights, framework="pt") as file:
        header = file.metadata()
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    built = build_backbone(header["architecture"], image_size=int(header["image_size"]), stem=header["stem"])
    assert weights.keys() == built.module.state_dict().keys()  # strict loading forgives absent counters of BatchNorm
    built.module.load_state_dict(weights, strict=True)
    assert built.feature_dim == int(header["feature_dim"])
    assert all(torch.isfinite(value).all() for value in weights.values())


def check_losses(run: moco.Run) -> None:
    """Low while the queue holds random vectors, which are easy negatives; near log(1 + K) once it holds real keys."""
    losses = [line["loss"] for line in metrics(run) if "loss" in line]
    filled = -(-SHORT["dictionary_size"] // SHORT["batch_size"]) + 1
    assert len(losses) == SHORT["steps"]
    assert all(math.isfinite(loss) for loss in losses)
    assert losses[0] < losses[filled]
    assert losses[filled:] == pytest.approx([math.log(1 + SHORT["dictionary_size"])] * len(losses[filled:]), abs=0.5)


@pytest.mark.real_data
def test_all_of_imagenette_becomes_a_backbone(tmp_path):
    run = moco.pretrain(
        imagenette() / "train", out=tmp_path / "run", image_size=IMAGE_SIZE, knn_evaluations=0, **SHORT, recipe="v2"
    )
    check_whole(run)
    check_losses(run)
    assert run.summary["images"] == 9469
    assert run.summary["knn_top1"] is None


@pytest.mark.real_data
def test_a_test_folder_judges_and_is_not_learnt_from(tmp_path):
    train = linked(imagenette() / "train", tmp_path / "train", 40)
    test = linked(imagenette() / "val", tmp_path / "val", 20)
    run = moco.pretrain(
        train, out=tmp_path / "run", image_size=IMAGE_SIZE, test=str(test), knn_evaluations=2, **SHORT, recipe="v2"
    )
    check_whole(run)
    assert run.summary["images"] == 400
    assert "400 bank and 200 held-out images" in run.summary["knn_protocol"]
    for name in ("knn_top1", "knn_random_init", "knn_pixels"):
        assert 0.1 < run.summary[name] < 0.6, name  # chance is 0.1


@pytest.mark.real_data
def test_cifar_from_a_file_of_arrays(tmp_path):
    x_train, y_train, x_test, y_test = cifar10()
    parts = {"x_train": x_train[::25], "y_train": y_train[::25], "x_test": x_test[::20], "y_test": y_test[::20]}
    np.savez(tmp_path / "cifar.npz", **parts)
    run = moco.pretrain(tmp_path / "cifar.npz", out=tmp_path / "run", recipe="cifar", **{**SHORT, "split_groups": None})
    check_whole(run)
    check_losses(run)
    assert run.summary["images"] == 2000
    assert 0.2 < run.summary["knn_pixels"] < 0.4
    rate = run.summary["steps"] * SHORT["batch_size"] / run.summary["training_seconds"]
    assert run.summary["images_per_second"] == pytest.approx(rate, rel=0.1), "evaluations and export do not count"


def album(folder: Path, count: int, side: int = 256) -> Path:
    """Two class folders with `count` names of one JPEG; decoded, each image would take 3 * side * side bytes."""
    for name in "ab":
        (folder / name).mkdir(parents=True)
    first = folder / "a" / "00000.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((side, side)).save(first)
    for number in range(1, count):
        os.link(first, folder / "ab"[number % 2] / f"{number:05d}.jpg")
    return folder


def retained(make: Callable[[], object]) -> tuple[int, int]:
    """Bytes that the result of `make` keeps, and bytes in use at the peak while it was made, of Python and NumPy."""
    gc.collect()
    tracemalloc.start()
    try:
        result = make()
        gc.collect()
        kept, peak = tracemalloc.get_traced_memory()
        del result
        return kept, peak
    finally:
        tracemalloc.stop()


def test_listing_a_folder_keeps_the_characters_of_the_paths_and_little_more(tmp_path):
    few, many = album(tmp_path / "few", 200), album(tmp_path / "many", 2000)
    open_source(few)  # what is built once is not the folder's
    (kept_few, peak_few), (kept_many, peak_many) = (retained(lambda f=f: open_source(f)) for f in (few, many))
    characters = len("a/00000.jpg")
    assert (kept_many - kept_few) / 1800 < characters + 32, "a bytes object for each path would take 41 bytes more"
    assert peak_many - peak_few < 2e6


# Peak memory in KiB, in a process of its own: an earlier test may have left free memory to hide in.
READER = """
import sys, torch
from moco.data.loader import ViewLoader
from moco.data.order import EpochOrder
from moco.data.skipped import SkippedFiles
from moco.data.source import open_source
from moco.recipes import configure
from moco.data.recipe_views import RecipeViews
from moco.data.views import view_recipe
import numpy as np

def read(folder):
    source, _ = open_source(folder)
    for index in range(len(source)):
        source.pixels(index)
    order = EpochOrder(np.arange(len(source)), batch_size=20, seed=0)
    make = RecipeViews(view_recipe(configure("v2", {})), 32, order, device_type="cpu")
    loader = ViewLoader(source, order, make, device=torch.device("cpu"), skipped=SkippedFiles(), workers=2)
    batches = loader.batches(0)
    for _ in range(order.steps_per_epoch):
        next(batches)
    batches.close()
    # Not ru_maxrss, which begins with the peak of the process that started this one.
    return next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))

torch.set_num_threads(1)
print(*(read(folder) for folder in sys.argv[1:]))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/status")
def test_reading_a_folder_does_not_grow_with_its_size(tmp_path):
    folders = [str(album(tmp_path / str(count), count)) for count in (200, 2000)]
    said = subprocess.run([sys.executable, "-c", READER, *folders], capture_output=True, text=True, check=True)
    few, many = (int(value) / 1024 for value in said.stdout.split())
    assert many - few < 30, f"{few:.0f} MiB for 200 images, {many:.0f} for 2,000, which hold 338 MiB more of pixels"
