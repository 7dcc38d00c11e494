"""The speed-run judges all entries alike, goes on where it was, and says what it skips."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
import types

import numpy as np
import pytest
import torch
from benchmarks.speedrun import __main__ as harness
from benchmarks.speedrun import one
from benchmarks.speedrun.plot import curves
from benchmarks.speedrun.task import AbsentError, Normalized
from benchmarks.speedrun.tracks import TRACKS, prepare
from PIL import Image
from torch import nn

from moco.evaluation.knn import knn_accuracy

SIDE, TRAIN, TEST = 32, 128, 24


@pytest.fixture
def arrays(tmp_path):
    """Images of two colours, as an .npz file."""
    random = np.random.default_rng(0)

    def part(count):
        labels = np.arange(count) % 2
        images = random.integers(0, 60, (count, SIDE, SIDE, 3)).astype(np.uint8)
        images[labels == 1, :, :, 0] += 150
        return images, labels

    (x_train, y_train), (x_test, y_test) = part(TRAIN), part(TEST)
    np.savez(tmp_path / "arrays.npz", x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    return tmp_path / "arrays.npz"


@pytest.fixture
def here(monkeypatch):
    """Runs in this process, noted; an entry that multiplies one matrix of 8 by 8 and answers with the pixels."""

    def train(task):
        torch.ones(8, 8) @ torch.ones(8, 8)
        time.sleep(0.01)
        return nn.Flatten()

    entry, ran = types.ModuleType("benchmarks.speedrun.entries.pixels"), []
    entry.train = train
    monkeypatch.setitem(sys.modules, entry.__name__, entry)
    monkeypatch.setitem(TRACKS, "cifar-cpu", dataclasses.replace(TRACKS["cifar-cpu"], backbone="resnet_tiny"))
    monkeypatch.setattr(harness, "run", lambda job, seconds: ran.append(job) or one.outcome(job))
    return ran


def call(arrays, out, *arguments):
    return harness.main(["cifar-cpu", str(arrays), "--epochs", "1", "--workers", "0", "--out", str(out), *arguments])


def test_two_entries_are_run_judged_and_drawn_once(arrays, tmp_path, here, capsys):
    stated = ("--entries", "authors_v2", "pixels", "--seeds", "0")
    assert call(arrays, tmp_path / "out", *stated) == 0
    rows = json.loads((tmp_path / "out" / "results.json").read_text())["runs"]
    assert [(row["entry"], row["count"]) for row in rows] == [
        ("authors_v2", False),
        ("authors_v2", True),
        ("pixels", False),
        ("pixels", True),
    ]
    assert rows[2]["knn_top1"] == 1.0
    assert rows[3]["flops"] == 2 * 8**3
    assert rows[1]["flops"] > 10**8
    assert all(row["hardware"] and row["commit"] for row in rows)
    assert (tmp_path / "out" / "curves.png").is_file()
    assert "| pixels | 1 |" in capsys.readouterr().out
    assert call(arrays, tmp_path / "out", *stated) == 0
    assert len(here) == 4


def test_all_modules_are_judged_by_the_same_neighbours(arrays, tmp_path):
    torch.manual_seed(0)
    module = Normalized(nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE * 3, 4)), (0.5,) * 3, (0.2,) * 3)
    data = prepare(TRACKS["cifar-cpu"], arrays, tmp_path / "data")
    with np.load(data / "judge.npz") as found, torch.no_grad():
        features = [
            module(torch.from_numpy(found[part]).permute(0, 3, 1, 2).float() / 255).reshape(len(found[part]), -1)
            for part in ("train", "test")
        ]
        labels = [torch.from_numpy(found[f"{part}_labels"]) for part in ("train", "test")]
    expected = knn_accuracy(features[0], labels[0], features[1], labels[1], num_neighbors=20, knn_temperature=0.07)
    assert one.judge(module, data / "judge.npz", torch.device("cpu")) == pytest.approx(expected, abs=1e-5)


def test_runs_see_all_training_images_and_no_label(arrays, tmp_path):
    data = prepare(TRACKS["cifar-cpu"], arrays, tmp_path / "data")
    files = sorted((data / "images").iterdir())
    assert [file.stem for file in files] == [f"{number:06d}" for number in range(TRAIN)]
    seen = {np.asarray(Image.open(file)).tobytes() for file in files}
    with np.load(arrays) as stored:
        assert seen == {image.tobytes() for image in stored["x_train"]}
        red = [np.asarray(Image.open(file))[..., 0].mean() > 100 for file in files]
        assert red != [label == 1 for label in stored["y_train"]]


def test_validation_asks_training_images_that_are_left_out(arrays, tmp_path):
    data = prepare(TRACKS["cifar-cpu"], arrays, tmp_path / "data", validation=True)
    seen = {np.asarray(Image.open(file)).tobytes() for file in (data / "images").iterdir()}
    with np.load(data / "judge.npz") as judged, np.load(arrays) as stored:
        asked = {image.tobytes() for image in judged["test"]}
        assert len(seen) == TRAIN - 13
        assert len(asked) == 13
        assert seen | asked == {image.tobytes() for image in stored["x_train"]}


def test_larger_images_lose_their_edges_alone(tmp_path):
    images = np.zeros((2, 40, 60, 3), dtype=np.uint8)
    images[:, :, :10] = images[:, :, 50:] = 255
    for part in ("train", "val"):
        (tmp_path / "set" / part / "a").mkdir(parents=True)
        Image.fromarray(images[0]).save(tmp_path / "set" / part / "a" / "one.png")
    data = prepare(TRACKS["cifar-cpu"], tmp_path / "set", tmp_path / "data")
    with np.load(data / "judge.npz") as judged:
        assert judged["test"].shape == (1, SIDE, SIDE, 3)
        assert judged["test"][:, :, 2:-2].max() == 0


def test_what_is_late_or_absent_leaves_the_rest(arrays, tmp_path, here, monkeypatch, capsys):
    assert call(arrays, tmp_path / "none", "--entries", "pixels", "--minutes", "0") == harness.MORE_TO_DO
    assert here == []

    def missing(task):
        raise AbsentError("no such library")

    entry = types.ModuleType("benchmarks.speedrun.entries.missing")
    entry.train = missing
    monkeypatch.setitem(sys.modules, entry.__name__, entry)
    assert call(arrays, tmp_path / "out", "--entries", "missing", "pixels", "--seeds", "0", "1") == 0
    said = capsys.readouterr().out
    assert said.count("missing: skipped, no such library") == 1
    rows = json.loads((tmp_path / "out" / "results.json").read_text())["runs"]
    assert {row["entry"] for row in rows} == {"pixels"}
    (line,) = curves(rows, clock="wall").values()
    assert (line[0].seeds, line[0].accuracy, line[0].flops) == (2, 1.0, 2 * 8**3)


def test_a_search_multiplies_stated_learning_rates_and_no_others(arrays, tmp_path, here, monkeypatch, capsys):
    asked, pixels = [], sys.modules["benchmarks.speedrun.entries.pixels"].train

    def noted(task, **given):
        asked.append(given)
        return pixels(task)

    monkeypatch.setattr("benchmarks.speedrun.entries.authors_v2.pretrained", noted)
    stated = ("--entries", "authors_v2", "fitted", "--seeds", "0", "--rates", "2", "0.5", "--validation")
    assert call(arrays, tmp_path / "out", *stated) == 0
    rates = [given["base_learning_rate"] for given in asked]
    assert rates == [0.48, 0.48, 0.12]  # the second is the run that counts FLOPs
    rows = json.loads((tmp_path / "out" / "results.json").read_text())["runs"]
    assert [(row["entry"], row["rate"]) for row in rows if not row["count"]] == [("authors_v2", 2), ("authors_v2", 0.5)]
    assert set(curves(rows, clock="cpu")) == {"authors_v2, learning rate x2", "authors_v2, learning rate x0.5"}
    assert capsys.readouterr().out.count("fitted: skipped, its learning rate is not stated") == 2


def test_a_process_of_its_own_gives_one_line(arrays, tmp_path):
    data = prepare(TRACKS["cifar-cpu"], arrays, tmp_path / "data")
    job = one.Job(
        track="cifar-cpu",
        entry="gone",
        epochs=1,
        seed=0,
        image_size=SIDE,
        backbone="resnet_tiny",
        accelerator="cpu",
        data=str(data),
    )
    assert "No module named 'benchmarks.speedrun.entries.gone'" in harness.run(job, 100)["failed"]
