"""A run that nobody configured: what it decides, stores, repeats, says, and refuses."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

import moco
from moco.cli import main
from moco.errors import ConfigError, DataError
from moco.fit import measure as measuring
from moco.fit import plan, rules
from moco.fit.measure import measure
from tests.conftest import StopAt

# What keeps a fitted run small without touching what most tests look at.
SMALL = {"backbone": "resnet_tiny", "image_size": 16, "batch_size": 8, "threads": 1, "workers": 0, "num_neighbors": 3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """80 images of two classes, 40 x 34 pixels."""
    folder = tmp_path_factory.mktemp("data") / "photos"
    generator = np.random.default_rng(0)
    for number in range(80):
        place = folder / ("cats", "dogs")[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 256, (34, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"{number:02d}.png")
    return folder


@pytest.fixture
def slow_steps(monkeypatch):
    """As if a step took 20 s here, so that a budget of minutes is a run of seconds, however busy this machine is."""

    def measured(*arguments):
        return dataclasses.replace(measure(*arguments), step=20.0, evaluation=0.01)

    monkeypatch.setattr(plan, "measure", measured)


def same(first, second):
    one, two = load_file(first.weights), load_file(second.weights)
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_a_run_without_options_fits_itself_within_its_budget(folder, tmp_path, capsys, slow_steps):
    options = {name: SMALL[name] for name in ("backbone", "threads", "workers", "num_neighbors")}
    run = moco.pretrain(folder, out=tmp_path / "run", budget="5m", **options)
    said = capsys.readouterr().err
    assert (run.config.recipe, run.config.image_size, run.config.batch_size) == ("auto", 32, 32)
    assert (run.config.dictionary_size, run.config.epochs, run.config.schedule_unit) == (64, None, "step")
    assert 10 <= run.config.steps <= 14
    assert run.config.warmup_steps == 0
    assert run.finished
    assert 200 < run.summary["predicted_seconds"] <= 300
    assert run.summary["predicted_memory_bytes"] > 10**8
    for name in set(rules.FIELDS) - {"head_warmup_steps"} | {"init"}:
        assert f"\n  {name} " in said, name
    assert said.index("  image_size ") < said.index("\nabout ") < said.index(", predicted ")


def test_the_stored_configuration_repeats_the_run_bit_for_bit_without_measuring(
    folder, tmp_path, monkeypatch, slow_steps
):
    first = moco.pretrain(folder, out=tmp_path / "first", quiet=True, **SMALL, budget="3m")
    stored = yaml.safe_load((first.path / "config.yaml").read_text())
    assert stored["recipe"] == "auto"
    assert set(rules.FIELDS) <= stored.keys()
    monkeypatch.setattr(plan, "measure", None)
    assert main(["pretrain", "--config", str(first.path / "config.yaml"), "--out", str(tmp_path / "second")]) == 0
    second = moco.Run(tmp_path / "second")
    assert (second.config, second.summary["loss"]) == (first.config, first.summary["loss"])
    assert same(first, second)
    third = moco.pretrain(folder, out=tmp_path / "third", config=first.config, quiet=True)
    assert same(first, third)


def test_measuring_changes_neither_the_run_nor_the_callers_random_state(folder, tmp_path):
    options = {**SMALL, "steps": 6, "knn_evaluations": 2}
    torch.manual_seed(1)
    expected = torch.randn(3)
    torch.manual_seed(1)
    measured = moco.pretrain(folder, out=tmp_path / "measured", **options)
    assert torch.equal(torch.randn(3), expected)
    plain = moco.pretrain(folder, out=tmp_path / "plain", quiet=True, **options)
    assert measured.summary["predicted_seconds"] > 0
    assert plain.summary["predicted_seconds"] is None
    assert measured.config == plain.config
    assert same(measured, plain)


def test_a_module_of_the_users_is_measured_on_a_copy(folder, tmp_path):
    def trained(quiet):
        torch.manual_seed(0)
        module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
        name = f"run{quiet}"
        return moco.pretrain(folder, out=tmp_path / name, quiet=quiet, **{**SMALL, "backbone": module, "steps": 3})

    assert same(trained(False), trained(True))


def test_a_fitted_run_is_resumed_with_its_own_options(folder, tmp_path, monkeypatch):
    whole = moco.pretrain(folder, out=tmp_path / "whole", quiet=True, **{**SMALL, "steps": 6})
    part = moco.pretrain(folder, out=tmp_path / "part", quiet=True, callbacks=[StopAt(2)], **{**SMALL, "steps": 6})
    monkeypatch.setattr(plan, "measure", None)
    assert same(whole, moco.pretrain(out=part.path, resume=True))


@pytest.mark.parametrize("recipe", [None, "v2"])
def test_a_dry_run_says_what_would_be_and_writes_nothing(folder, tmp_path, capsys, monkeypatch, recipe):
    monkeypatch.chdir(tmp_path)
    options = {**SMALL, "steps": 50, "recipe": recipe}
    run = moco.pretrain(folder, dry_run=True, **options)
    said = capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    assert not run.path.exists()
    assert "50 steps at" in said
    assert ("\n  temperature " in said) is (recipe is None)


def test_the_command_takes_budget_and_dry_run(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["--backbone", "resnet_tiny", "--threads", "1", "--workers", "0", "--num-neighbors", "3"]
    assert main(["pretrain", str(folder), "--budget", "20s", "--dry-run", *options]) == 0
    assert "budget 20 s" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_grey_images_have_no_colours_to_change(tmp_path):
    grey = np.random.default_rng(0).integers(0, 256, (60, 20, 20, 1), dtype=np.uint8).repeat(3, axis=3)
    run = moco.pretrain(grey, out=tmp_path / "run", quiet=True, **{**SMALL, "steps": 1})
    assert (run.config.hue, run.config.saturation, run.config.grayscale_probability) == (0.0, 0.0, 0.0)
    assert run.config.crop_min == 0.4


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"budget": "1s"}, ConfigError, "give at least --budget"),
        ({"budget": "1s", "steps": 3}, ConfigError, "a length is stated"),
        ({"budget": "1s", "recipe": "v2"}, ConfigError, "recipe='v2'"),
        ({"budget": "tomorrow"}, ConfigError, "expected a time"),
        ({"bakbone": "resnet18"}, ConfigError, "did you mean backbone"),
        ({"batch_size": 79}, ConfigError, "batch_size=79 with 72 images"),
        ({"include": ["dogs/1*"]}, DataError, "expected at least 50"),
    ],
)
def test_what_cannot_be_fitted_is_refused_with_the_remedy_and_nothing_written(folder, tmp_path, options, error, words):
    with pytest.raises(error, match=words) as raised:
        moco.pretrain(folder, out=tmp_path / "run", quiet=True, **{**SMALL, **options})
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "run").exists()


def test_a_budget_beside_a_whole_configuration_is_refused(folder, tmp_path):
    config = dataclasses.replace(moco.Config(), recipe="auto")
    with pytest.raises(ConfigError, match="budget=8h with a whole configuration"):
        moco.pretrain(folder, out=tmp_path / "run", config=config, budget="8h")


def test_several_processes_train_what_the_first_one_has_fitted(folder, tmp_path):
    options = {**SMALL, "batch_size": 16, "num_neighbors": 3, "steps": 3, "accelerator": "cpu", "devices": 2}
    written = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    command = [sys.executable, "-m", "moco", "pretrain", str(folder), "--out", str(tmp_path / "run"), *written]
    made = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert made.returncode == 0, made.stderr
    run = moco.Run(tmp_path / "run")
    assert run.summary["steps"] == run.config.steps
    assert made.stderr.count("\n  image_size ") == 1


@pytest.mark.parametrize(("line", "library"), [("moco ", "torch"), ("  image_size", "torchvision")])
def test_the_first_line_and_the_table_do_not_wait_for_what_loads_slowly(folder, tmp_path, line, library):
    command = [sys.executable, "-m", "moco", "pretrain", str(folder), "--dry-run", "--backbone", "resnet_tiny"]
    environment = {**os.environ, "PYTHONPROFILEIMPORTTIME": "1"}  # a line for each module that has been loaded
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=environment) as process:
        before = list(itertools.takewhile(lambda printed: not printed.startswith(line), process.stderr))
        process.kill()
        process.stderr.read()
    assert not any(printed.rpartition("|")[2].strip() == library for printed in before)
    assert len(before) > 10


def test_a_silent_command_says_nothing_first():
    from moco.cli.main import first_line

    assert first_line(["pretrain", "photos", "--quiet"]) == first_line(["embed", "run", "photos"]) == ""
    assert first_line(["pretrain", "--out", "runs/a", "--resume"]).endswith("looking at runs/a\n")
    assert first_line(["pretrain", "--image-size", "64"]).endswith("looking at the picture book\n")


def test_lines_are_metrics_of_the_whole_run(folder, tmp_path):
    run = moco.pretrain(folder, out=tmp_path / "run", **{**SMALL, "steps": 4, "log_every": 2, "knn_evaluations": 1})
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in itertools.chain(lines)] == [2, 4, 4], "nothing of what was measured is in them"


def test_what_starting_weights_decide_stays(folder, tmp_path):
    first = moco.pretrain(folder, out=tmp_path / "first", quiet=True, **{**SMALL, "backbone": "resnet18", "steps": 1})
    options = {name: SMALL[name] for name in ("batch_size", "threads", "workers", "num_neighbors")}
    run = moco.pretrain(folder, out=tmp_path / "run", init=first.path, quiet=True, steps=1, **options)
    assert (run.config.recipe, run.config.batchnorm, run.config.base_learning_rate) == ("auto", "frozen", 0.12)
    assert (run.config.image_size, run.config.dictionary_size) == (16, 72)


def test_smaller_views_first_make_a_fitted_run_longer(folder, tmp_path, monkeypatch):
    """What is measured is the mean over the run's sizes, as if steps of 16 px took a quarter of those of 32."""
    seconds = {16: 5.0, 32: 20.0}
    monkeypatch.setattr(measuring, "_timed", lambda run, config, deadline, size: [seconds[size]] * 10)
    monkeypatch.setattr(measuring, "_evaluation", lambda run, device: (0.01, 0.0))
    options = {**SMALL, "image_size": 32, "quiet": True}
    plain, growing = (
        moco.pretrain(folder, out=tmp_path / str(stated), budget="5m", progressive_resolution=stated, **options)
        for stated in (None, "auto")
    )
    assert growing.config.progressive_resolution == "auto"
    ratio = growing.config.steps / plain.config.steps
    assert ratio == pytest.approx(1 / (0.75 * 0.25 + 0.25), rel=0.1)
