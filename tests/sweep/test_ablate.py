"""`moco.ablate` on real runs in small numbers: what is done is not done again, what fails stays alone."""

from __future__ import annotations

import json
import shutil

import pytest
import yaml

import moco
from moco.commands.pretrain import Run
from moco.errors import ConfigError, RunError
from moco.sweep import plot
from moco.sweep.folder import GridFolder
from moco.sweep.job import PILOT_STEPS
from moco.training import loop
from tests.sweep.grids import TINY, carry_out_here, here, images, settings

__all__ = ["here"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return images(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """A grid of one run without a probe; copied by those that go on with it."""
    with pytest.MonkeyPatch.context() as patch:
        carry_out_here(patch)
        return ablate(data, tmp_path_factory.mktemp("finished") / "grid", values=[0.5], linear=False).path


@pytest.fixture
def grid(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "grid")


def ablate(data, out, study="momentum", **options):
    return moco.ablate(study, data, out=out, **{"recipe": "cifar", "options": TINY, "quiet": True, **options})


def test_each_row_holds_the_figures_of_its_runs(data, tmp_path, here):
    result = ablate(data, tmp_path / "grid", values=[0.9], seeds=(0, 1))
    assert result.finished
    assert here == ["m0.9-seed0", "m0.9-seed1"]
    for row in result.tables[0].rows:
        for place, (seed, name) in enumerate(row.runs.items()):
            run = Run(tmp_path / "grid" / "runs" / name)
            for measure in ("knn_top1", "loss", "pretext_accuracy", "training_seconds"):
                assert row.values[measure][place] == run.summary[measure], measure
            assert (run.config.key_momentum, run.config.seed) == (row.point.options["key_momentum"], seed)
            assert row.values["images_per_second"][place] == pytest.approx(6 * 8 / run.summary["training_seconds"])
        assert all(0.5 <= value <= 1 for value in row.values["linear_top1"]), "bright and dark are told apart"
    assert "| key momentum m | kNN %" in str(result)


def test_equal_configurations_of_two_studies_are_one_run_also_in_two_calls(data, tmp_path, here):
    quick = {"linear": False, "options": {**TINY, "knn_evaluations": 0}}
    ablate(data, tmp_path / "grid", "paper", values={"momentum": [0.99], "mechanism": [16]}, **quick)
    assert here == ["moco-K16-seed0", "memory-bank-K16-seed0", "end-to-end-K16-seed0"]
    again = ablate(data, tmp_path / "grid", values=[0.99, 0.5], **quick)
    assert here[3:] == ["m0.5-seed0"], "what is finished is not run again"
    assert list(again.tables[0].rows[0].runs.values()) == ["moco-K16-seed0"]


def test_a_run_that_fails_is_reported_and_the_others_go_on(data, tmp_path, here):
    rates = {"base_learning_rate": [1e6, 0.03]}
    same = {"vary": rates, "linear": False, "options": {**TINY, "steps": 20, "log_every": 1}}
    result = ablate(data, tmp_path / "grid", None, **same)
    bad, good = result.tables[0].rows
    assert result.finished
    assert bad.failed
    assert "loss" in next(iter(bad.failures.values()))
    assert good.mean("knn_top1") is not None
    assert "**failed**" in (tmp_path / "grid" / "ablation.md").read_text()
    assert ">failed<" in (tmp_path / "grid" / "base_learning_rate.svg").read_text()
    ablate(data, tmp_path / "grid", None, **same)
    assert len(here) == 2, "a failure is not tried again"
    ablate(data, tmp_path / "grid", None, **same, retry_failed=True)
    assert len(here) == 3, "unless the caller says so"


def test_without_matplotlib_pictures_are_left_out_and_drawn_by_a_later_call(data, grid, here, monkeypatch):
    for picture in grid.glob("momentum.*"):
        picture.unlink()
    with monkeypatch.context() as patch:
        patch.setattr(plot, "find_spec", lambda name: None)
        result = ablate(data, grid, values=[0.5], linear=False)
    assert {path.name for path in result.files} == {"ablation.md", "ablation.json"}
    again = ablate(data, grid, values=[0.5], linear=False)
    assert {path.name for path in again.files} > {"momentum.svg", "momentum.png"}
    assert not here, "nothing is trained for it"


def test_other_options_data_or_files_and_a_grid_at_work_are_refused(data, grid, tmp_path, here):
    for options, named in (({"temperature": 0.3}, "temperature"), ({"steps": 7}, "steps")):
        with pytest.raises(ConfigError, match=named):
            ablate(data, grid, values=[0.5], options={**TINY, **options})
    with pytest.raises(ConfigError, match="data"):
        ablate(None, grid, values=[0.5])
    assert ablate(data, grid, values=[0.5], options={**TINY, "threads": 2, "cache_gib": 1.0}, linear=False).finished
    config = grid / "runs" / "m0.5-seed0" / "config.yaml"
    config.write_text(yaml.safe_dump({**yaml.safe_load(config.read_text()), "temperature": 0.4}))
    with pytest.raises(ConfigError, match="m0.5-seed0 .*temperature"):
        ablate(data, grid, values=[0.5])
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "photo.jpg").touch()
    with pytest.raises(RunError, match="other"):
        ablate(data, tmp_path / "other", values=[0.5])
    shared = settings("momentum", data, out=tmp_path / "busy").shared
    with GridFolder(tmp_path / "busy").at_work(shared), pytest.raises(RunError, match="in use"):
        ablate(data, tmp_path / "busy", values=[0.5])
    assert not here


def test_a_probe_that_is_wanted_later_does_not_train_again(data, grid, here, monkeypatch):
    assert "linear %" not in (grid / "ablation.md").read_text()
    monkeypatch.setattr(loop, "one_step", None)
    result = ablate(data, grid, values=[0.5])
    assert result.tables[0].rows[0].mean("linear_top1") is not None


def test_a_dry_run_says_the_budget_and_writes_nothing(data, tmp_path, here):
    result = ablate(data, tmp_path / "grid", values=[0.5, 0.9], seeds=(0, 1), jobs=2, minutes=3, dry_run=True)
    assert not (tmp_path / "grid").exists()
    assert not here
    assert result.exit_code == 0
    assert "4 runs (2 points, seeds 0, 1)" in result.budget
    assert "m0.5-seed1: 6 steps of 8" in result.budget
    assert "images/s" in result.budget
    assert result.as_dict()["runs"][0] == {"name": "m0.5-seed0", "steps": 6}


def test_out_of_time_it_stops_with_a_checkpoint_and_goes_on_as_if_never_stopped(
    data, finished, tmp_path, here, monkeypatch
):
    same = {"values": [0.5], "linear": False}
    one_step, steps = loop.one_step, []
    monkeypatch.setattr(loop, "one_step", lambda *arguments: steps.append(1) or one_step(*arguments))
    with monkeypatch.context() as patch:
        patch.setattr("moco.sweep.job.time.time", lambda: 1e12 if len(steps) == PILOT_STEPS + 3 else 0.0)
        stopped = ablate(data, tmp_path / "part", minutes=1e6, **same)
    assert (stopped.exit_code, len(steps)) == (3, PILOT_STEPS + 3)
    again = ablate(data, tmp_path / "part", **same)
    assert again.finished
    assert len(steps) == 2 * PILOT_STEPS + 6, "the first three are not made again"
    whole, part = (json.loads((path / "ablation.json").read_text()) for path in (finished, tmp_path / "part"))
    for measure in ("loss", "knn_top1", "pretext_accuracy"):
        values = [content["studies"][0]["rows"][0][measure] for content in (whole, part)]
        assert values[0] == values[1], measure
