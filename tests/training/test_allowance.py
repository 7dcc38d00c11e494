"""The kNN monitor's share of a run: what is left out, what never is, and that nothing of it changes the learning."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
import torch
from tests.test_pretrain import losses, same
from torch import nn

import moco
from moco import monitoring
from moco.cli import main
from moco.config import Config
from moco.errors import ConfigError
from moco.evaluation import extract_features
from moco.evaluation import monitor as evaluation_monitor
from moco.recipes import RECIPES, configure
from moco.summary import closing_lines
from moco.training import allowance, loop
from moco.workload import view_recipe

AUTO, STATED = Config(), Config(knn_evaluations=7)


def curve(run):
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    return [line["step"] for line in lines if "knn_top1" in line]


@pytest.fixture
def free(monkeypatch):
    """Training takes so long that every evaluation is cheap."""
    monkeypatch.setattr(allowance, "SHARE", 1e9)


@pytest.fixture
def dear(monkeypatch):
    """No training is long enough for an evaluation."""
    monkeypatch.setattr(allowance, "SHARE", 0.0)


def test_all_that_was_spent_and_is_to_come_stays_within_three_percent():
    last = {"monitor_seconds": 1.0, "curve_seconds": 0.5, "final_seconds": 1.5}
    assert allowance.affordable(AUTO, last, 100.1)
    assert not allowance.affordable(AUTO, last, 99.9)
    for name in last:
        assert not allowance.affordable(AUTO, {**last, name: last[name] + 0.1}, 100.1), name
    assert allowance.affordable(STATED, last, 0.0), "a stated number is made whatever it costs"
    assert (allowance.evaluations(AUTO), allowance.evaluations(STATED)) == (10, 7)


def test_the_next_evaluation_is_expected_to_take_what_the_last_one_took():
    last = {"monitor_seconds": 1.0, "curve_seconds": 0.5, "final_seconds": 1.5}
    allowance.spend(last, 4.0)
    assert last == {"monitor_seconds": 5.0, "evaluation_seconds": 4.0, "curve_seconds": 4.0, "final_seconds": 1.5}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_curve_is_computed_as_the_training_and_the_figures_in_float32(precision, monkeypatch):
    asked: list[bool] = []

    def noted(backbone, batches, *, bf16=False):
        asked.append(bf16)
        return torch.rand(30, 4)

    monkeypatch.setattr(evaluation_monitor, "extract_features", noted)
    images = monitoring.LabelledSet(np.zeros((30, 8, 8, 3), np.uint8), np.arange(30) % 2)
    made = monitoring.Monitoring(images, images, Config(precision=precision), view_recipe(Config()))
    list(made.curve(nn.Identity()))
    made.final(nn.Identity())
    assert asked == [precision == "bf16"] * 2 + [False] * 2


def test_a_run_with_any_evaluation_ends_below_the_share_and_with_ten_where_there_is_room():
    """Evaluations of a known length beside steps of a known length, at the ten places."""
    for step_seconds in (0.001, 0.02, 0.1, 0.5, 2.0, 50.0):
        last, made = {"monitor_seconds": 3.0, "curve_seconds": 0.2, "final_seconds": 2.5}, 0
        for step in sorted(loop.spaced_steps(1000, 10)):
            if allowance.affordable(AUTO, last, step * step_seconds):
                allowance.spend(last, 0.4)
                made += 1
        total = last["monitor_seconds"] + last["final_seconds"]
        assert not made or total <= 0.03 * 1000 * step_seconds
        assert last.get("evaluation_seconds", 0.0) == pytest.approx(0.4 * made)
        assert made == 10 if step_seconds == 50.0 else made == 0 if step_seconds <= 0.1 else made > 0


def test_defaults_and_recipes():
    for name in RECIPES:
        assert configure(name, {}).knn_evaluations == (5 if name == "picturebook" else "auto")
    for wrong in ("often", -1):
        with pytest.raises(ConfigError, match="knn_evaluations="):
            Config(knn_evaluations=wrong)


def test_what_is_left_out_changes_nothing_that_is_learnt(photos, tmp_path, tiny, monkeypatch):
    options = {**tiny, "steps": 20, "log_every": 1}
    del options["knn_evaluations"]
    runs = {}
    for name, share in {"free": 1e9, "dear": 0.0}.items():
        monkeypatch.setattr(allowance, "SHARE", share)
        runs[name] = moco.pretrain(photos, out=tmp_path / name, quiet=True, **options)
    runs["stated"] = moco.pretrain(photos, out=tmp_path / "stated", quiet=True, **options, knn_evaluations=3)
    assert curve(runs["free"]) == list(range(2, 21, 2))
    assert curve(runs["dear"]) == []
    assert curve(runs["stated"]) == [7, 14, 20], "a stated number is honoured exactly"
    assert [run.summary["evaluations_left_out"] for run in runs.values()] == [0, 10, 0]
    for run in runs.values():
        assert losses(run) == losses(runs["free"])
        assert same(run, runs["free"])
        assert run.summary["knn_top1"] == runs["free"].summary["knn_top1"], "the one at the end is always made"
        assert run.summary["monitor_seconds"] > run.summary["evaluation_seconds"]
    assert runs["dear"].summary["evaluation_seconds"] == 0


def test_a_resumed_run_remembers_what_was_spent(photos, tmp_path, tiny, monkeypatch, free):
    options = {**tiny, "steps": 20}
    del options["knn_evaluations"]
    with monkeypatch.context() as patch:
        patch.setattr(loop, "_should_stop", lambda stop, task, step: step >= 10)
        part = moco.pretrain(photos, out=tmp_path / "part", quiet=True, **options)
    assert curve(part) == [2, 4, 6, 8, 10]
    monkeypatch.setattr(allowance, "SHARE", 0.0)
    whole = moco.pretrain(out=tmp_path / "part", resume=True, quiet=True)
    assert curve(whole) == [2, 4, 6, 8, 10]
    assert whole.summary["evaluations_left_out"] == 5
    assert whole.summary["monitor_seconds"] > part.summary["monitor_seconds"]
    assert whole.summary["evaluation_seconds"] == part.summary["evaluation_seconds"]


def test_the_time_is_said(photos, tmp_path, tiny, capfd, dear):
    options = [f"--{name}={value}" for name, value in tiny.items() if name != "knn_evaluations"]
    assert main(["pretrain", str(photos), "--out", str(tmp_path / "run"), *options, "--knn-evaluations", "auto"]) == 0
    said = capfd.readouterr().err
    assert "kNN monitor: " in said
    assert "6 evaluations on the way left out" in said
    summary = {"finished": True, "skipped": 0, "knn_top1": 0.5, "knn_pixels": 0.4, "knn_random_init": 0.3, "seconds": 9}
    summary |= {"images_per_second": 1, "data_wait": 0.0, "monitor_seconds": 2.0, "training_seconds": 98.0}
    lines = closing_lines({**summary, "evaluations_left_out": 0}, tmp_path)
    assert "kNN monitor: 2.0 s, 2.0% of training and monitor together" in lines


def test_what_is_expected_grows_with_the_images(monkeypatch):
    sets = [monitoring.LabelledSet(np.zeros((n, 8, 8, 3), np.uint8), np.arange(n) % 2) for n in (6000, 500)]
    made = monitoring.Monitoring(*sets, Config(image_size=8), None)
    assert made.expected(0.01) == {"curve_seconds": pytest.approx(45.0), "final_seconds": pytest.approx(65.0)}

    class Slow(nn.Module):
        def forward(self, images):
            time.sleep(0.001 * len(images))
            return images.mean(dim=(2, 3))

    asked = monitoring.Monitoring(*sets, Config(image_size=8), view_recipe(Config()))
    assert 0.001 <= asked.seconds_per_image(Slow()) < 0.1


def test_features_in_bf16_are_near_and_rounded():
    torch.manual_seed(0)
    network, images = nn.Sequential(nn.Flatten(), nn.Linear(48, 16)), torch.randn(10, 3, 4, 4)
    exact, rounded = (extract_features(network, [images], bf16=bf16) for bf16 in (False, True))
    assert rounded.dtype == torch.float32
    assert torch.equal(rounded, rounded.bfloat16().float())
    assert not torch.equal(rounded, exact)
    torch.testing.assert_close(rounded, exact, rtol=0.05, atol=0.05)
