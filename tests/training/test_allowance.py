"""The kNN monitor's share of a run: what is left out, what never is, and that nothing of it changes the learning."""

from __future__ import annotations

import json
import re
import time
import types

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
def test_curve_and_figures_are_computed_as_the_training(precision, monkeypatch):
    asked: list[bool] = []

    def noted(backbone, batches, *, bf16=False):
        asked.append(bf16)
        return torch.rand(30, 4)

    monkeypatch.setattr(evaluation_monitor, "extract_features", noted)
    monkeypatch.setattr(monitoring, "extract_features", noted)
    images = monitoring.LabelledSet(np.zeros((30, 8, 8, 3), np.uint8), np.arange(30) % 2)
    made = monitoring.Monitoring(images, images, Config(precision=precision), view_recipe(Config()))
    list(made.curve(nn.Identity()))
    made.final(nn.Identity())
    made.seconds_per_image(nn.Identity())
    assert asked == [precision == "bf16"] * 6
    assert f"features in {precision}, 30 bank and 30 held-out images" in made.protocol


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
        book = name == "picturebook"
        assert configure(name, {}).knn_evaluations == (5 if book else "auto")
        assert configure(name, {}).knn_images == (8000 if book else "auto")
    for field in ("knn_evaluations", "knn_images"):
        for wrong in ("often", -1):
            with pytest.raises(ConfigError, match=f"{field}="):
                Config(**{field: wrong})


def test_what_has_no_auto_is_not_let_through():
    with pytest.raises((ConfigError, TypeError)):
        Config(workers="auto")


def test_the_images_follow_from_the_work_of_the_training_alone():
    """At two figures a run, each a forward pass of every image: 3 % of the passes that the training takes."""
    cases = {
        "v2": 4,  # query forward and twice that backward, key forward
        "v3": 8,  # both views each way
    }
    for name, passes in cases.items():
        config = configure(name, {"batch_size": 256, "devices": 2})
        assert allowance.figure_images(config, 10_000) == pytest.approx(0.03 * passes * 10_000 * 128 / 2, abs=1), name
    own = {"key_momentum": None, "dictionary_size": None}
    ends = configure("v2", {**own, "mechanism": "end-to-end", "batch_size": 100})
    assert allowance.figure_images(ends, 10_000) == pytest.approx(0.03 * 6 * 10_000 * 100 / 2, abs=1)
    assert allowance.figure_images(configure("v2", {"symmetric": True, "batch_size": 100}), 10_000) == 120_000
    assert allowance.figure_images(configure("v2", {}), 1) == 1_000, "fewer would say nothing"
    assert allowance.figure_images(configure("v2", {"num_neighbors": 900}), 1) == 1_800
    assert allowance.figure_images(configure("v2", {"knn_images": 77}), 10_000) == 77


def test_where_not_all_images_are_taken_a_quarter_is_asked_about(photos, tmp_path, tiny, capfd):
    """24 images: 18 learnt from, six held out."""

    def sides(most):
        run = moco.pretrain(photos, out=tmp_path / str(most), knn_images=most, **tiny)
        bank, queries = re.search(r"(\d+) bank and (\d+) held-out", run.summary["knn_protocol"]).groups()
        return int(bank), int(queries), capfd.readouterr().err

    assert sides(1000)[:2] == (18, 6)
    assert "left out" not in sides(24)[2]
    bank, queries, said = sides(20)
    assert (bank, queries) == (15, 5)
    assert "15 bank and 5 held-out images (4 left out, see --knn-images)" in said
    assert sides(23)[:2] == (18, 5), "all, where they are few"


def test_too_few_images_for_the_neighbours_are_refused(photos, tmp_path, tiny):
    with pytest.raises(ConfigError, match=r"num_neighbors=5 with 3 labelled.*raise --knn-images"):
        moco.pretrain(photos, out=tmp_path / "run", **{**tiny, "num_neighbors": 5, "knn_images": 4})


def test_a_data_set_with_few_bank_images_is_asked_about_more_held_out_ones(monkeypatch):
    monkeypatch.setattr(monitoring, "fixed_images", lambda source, indices, **_: (indices, indices))
    known, asked = (types.SimpleNamespace(labels=np.zeros(count, np.int64)) for count in (100, 5000))
    made = monitoring.prepare(
        known, np.arange(100), asked, np.arange(5000), config=Config(), recipe=None, skipped=None, most=1000
    )
    assert (len(made.bank.labels), len(made.queries.labels), made.left_out) == (100, 900, 4100)


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
    assert made.expected(0.01) == {"curve_seconds": pytest.approx(25.0), "final_seconds": pytest.approx(65.0)}

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
