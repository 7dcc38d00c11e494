"""`moco ablate` on real runs in small numbers: what is done is not done again, what fails stays alone."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import pytest
import yaml

import moco
from moco.ablation import grid as grid_module
from moco.ablation import plot
from moco.ablation.store import Store
from moco.ablation.worker import Job, carry_out
from moco.errors import ConfigError, RunError
from tests.ablation.grids import TINY, images

REPORT = {
    "start_seconds": 1.0,
    "evaluation": {"baselines": 1.0, "monitor": 1.0, "linear": 1.0},
    "hardware": "a processor",
}


@pytest.fixture
def unmeasured(monkeypatch):
    """The measurement before the start answers at once."""

    def ask(module, request, *, copies, threads):
        assert module == "moco.ablation.measure"
        return [{**REPORT, "seconds_per_step": [0.01] * len(request["configs"]), "taken": request["taken"]}] * copies

    monkeypatch.setattr(grid_module, "ask", ask)


@pytest.fixture
def here(monkeypatch):
    """Runs are carried out in this process, one after the other; the names of those that were started."""
    started: list[str] = []

    class Pool:
        def __init__(self, *, jobs, deadline, ended, watch):
            self.ended, self.interrupted, self.out_of_time = ended, False, False

        def run(self, tasks):
            from moco.ablation import worker

            for task in tasks:
                started.append(task.name)
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(worker, "_end_with_parent", lambda: None)
                    task.log.touch()
                    self.ended(task.name, worker.main([task.command[-1]]))

    monkeypatch.setattr(grid_module, "Pool", Pool)
    return started


@pytest.fixture
def data(tmp_path):
    return images(tmp_path)


def ablate(data, out, study="momentum", **options):
    options = {"recipe": "cifar", "options": TINY, "quiet": True, **options}
    return moco.ablate(study, data, out=out, **options)


def test_each_row_holds_the_figures_of_its_runs_summaries(data, tmp_path, unmeasured, here):
    result = ablate(data, tmp_path / "grid", values=[0.0, 0.9], seeds=(0, 1))
    assert result.finished
    assert here == ["m0-seed0", "m0.9-seed0", "m0-seed1", "m0.9-seed1"]
    for row in result.tables[0].rows:
        for place, name in enumerate(row.runs.values()):
            run = tmp_path / "grid" / "runs" / name
            summary = json.loads((run / "summary.json").read_text())
            last = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
            for measure in ("knn_top1", "loss", "pretext_accuracy", "training_seconds"):
                assert row.values[measure][place] == summary[measure], measure
            assert row.values["loss"][place] == [line["loss"] for line in last if "loss" in line][-1]
            stored = yaml.safe_load((run / "config.yaml").read_text())
            assert stored["key_momentum"] == row.point.options["key_momentum"]
            assert stored["seed"] == list(row.runs)[place]
            assert row.values["images_per_second"][place] == pytest.approx(6 * 8 / summary["training_seconds"])
        assert all(0.5 <= value <= 1 for value in row.values["linear_top1"]), "bright and dark are told apart"
    assert str(result).startswith("Key momentum\n| key momentum m | kNN %")


def test_runs_of_one_seed_share_the_figures_before_training_which_are_right(data, tmp_path, unmeasured, here):
    ablate(data, tmp_path / "grid", values=[0.5, 0.9])
    alone = moco.pretrain(data, out=tmp_path / "alone", recipe="cifar", quiet=True, **TINY, key_momentum=0.9)
    assert len(list((tmp_path / "grid" / "baselines").iterdir())) == 1
    shared = json.loads((tmp_path / "grid" / "runs" / "m0.9-seed0" / "summary.json").read_text())
    for name in ("knn_pixels", "knn_random_init", "knn_top1", "loss"):
        assert shared[name] == alone.summary[name], name


def test_what_is_finished_is_not_run_again_and_a_new_point_is_added(data, tmp_path, unmeasured, here):
    ablate(data, tmp_path / "grid", values=[0.5])
    ablate(data, tmp_path / "grid", values=[0.5])
    assert here == ["m0.5-seed0"]
    result = ablate(data, tmp_path / "grid", values=[0.5, 0.9], jobs=2)
    assert here == ["m0.5-seed0", "m0.9-seed0"]
    assert [row.mean("loss") is not None for row in result.tables[0].rows] == [True, True]


def test_equal_configurations_of_two_studies_are_one_run_also_in_two_calls(data, tmp_path, unmeasured, here):
    ablate(data, tmp_path / "grid", "paper", values={"momentum": [0.99], "mechanism": [16]})
    assert here == ["moco-K16-seed0", "memory-bank-K16-seed0", "end-to-end-K16-seed0"]
    again = ablate(data, tmp_path / "grid", values=[0.99, 0.5])
    assert here[3:] == ["m0.5-seed0"]
    assert list(again.tables[0].rows[0].runs.values()) == ["moco-K16-seed0"]


def test_a_run_that_fails_is_reported_and_the_others_go_on(data, tmp_path, unmeasured, here, monkeypatch):
    learning = {**TINY, "steps": 40, "temperature": 0.07, "log_every": 1}
    rates = {"base_learning_rate": [1e30, 0.03]}
    result = ablate(data, tmp_path / "grid", None, vary=rates, options=learning)
    bad, good = result.tables[0].rows
    assert result.finished
    assert bad.failed
    assert "the loss is" in next(iter(bad.failures.values()))
    assert good.mean("knn_top1") is not None
    assert "**failed**" in (tmp_path / "grid" / "ablation.md").read_text()
    assert ">failed<" in (tmp_path / "grid" / "base_learning_rate.svg").read_text()
    count = len(here)
    ablate(data, tmp_path / "grid", None, vary=rates, options=learning)
    assert len(here) == count, "a failure is not tried again"
    ablate(data, tmp_path / "grid", None, vary=rates, options=learning, retry_failed=True)
    assert len(here) == count + 1, "unless it is asked for"


def test_without_matplotlib_pictures_are_left_out_and_drawn_by_a_later_call(
    data, tmp_path, unmeasured, here, monkeypatch, capfd
):
    with monkeypatch.context() as patch:
        patch.setattr(plot, "find_spec", lambda name: None)
        result = ablate(data, tmp_path / "grid", values=[0.9], quiet=False)
    assert result.finished
    assert {path.name for path in result.files} == {"ablation.md", "ablation.json"}
    assert "no pictures, for matplotlib is not installed" in capfd.readouterr().err
    again = ablate(data, tmp_path / "grid", values=[0.9], quiet=False)
    assert {path.name for path in again.files} > {"momentum.svg", "momentum.png"}
    assert here == ["m0.9-seed0"]
    assert "no pictures" not in capfd.readouterr().err


def test_a_changed_option_is_refused_by_name(data, tmp_path, unmeasured, here):
    ablate(data, tmp_path / "grid", values=[0.5])
    with pytest.raises(ConfigError, match="temperature is not set, now 0.3"):
        ablate(data, tmp_path / "grid", values=[0.5], options={**TINY, "temperature": 0.3})
    with pytest.raises(ConfigError, match="steps is 6, now 7"):
        ablate(data, tmp_path / "grid", values=[0.5], options={**TINY, "steps": 7})
    with pytest.raises(ConfigError, match="data is .*now None"):
        ablate(None, tmp_path / "grid", values=[0.5])
    assert here == ["m0.5-seed0"]
    assert ablate(data, tmp_path / "grid", values=[0.5], options={**TINY, "threads": 2, "cache_gib": 1.0}).finished


def test_a_run_whose_configuration_was_changed_is_refused_by_name(data, tmp_path, unmeasured, here):
    ablate(data, tmp_path / "grid", values=[0.5])
    file = tmp_path / "grid" / "runs" / "m0.5-seed0" / "config.yaml"
    file.write_text(file.read_text().replace("temperature: 0.1\n", "temperature: 0.4\n", 1))
    with pytest.raises(ConfigError, match=r"m0.5-seed0 has another configuration \(temperature is 0.4, now 0.1\)"):
        ablate(data, tmp_path / "grid", values=[0.5])


def test_a_folder_of_something_else_or_in_use_is_refused(data, tmp_path, unmeasured, here):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "photo.jpg").touch()
    with pytest.raises(RunError, match="holds other files"):
        ablate(data, tmp_path / "other", values=[0.5])
    ablate(data, tmp_path / "grid", values=[0.5])
    store = Store(tmp_path / "grid")
    store.take()
    with pytest.raises(RunError, match="in use by another grid"):
        ablate(data, tmp_path / "grid", values=[0.5])
    store.close()
    assert ablate(data, tmp_path / "grid", values=[0.5]).finished


def test_a_probe_that_is_asked_for_later_does_not_train_again(data, tmp_path, unmeasured, here, monkeypatch):
    ablate(data, tmp_path / "grid", values=[0.5], linear=False)
    page = (tmp_path / "grid" / "ablation.md").read_text()
    assert "linear %" not in page
    monkeypatch.setattr("moco.pretraining.Pretraining.run", None)
    result = ablate(data, tmp_path / "grid", values=[0.5])
    assert result.tables[0].rows[0].mean("linear_top1") is not None
    assert result.budget.endswith("about 3 s in all"), "start, kNN and probe, of a second each; no step"


def test_a_dry_run_says_the_budget_and_writes_nothing(data, tmp_path, unmeasured, here, capsys):
    result = ablate(data, tmp_path / "grid", values=[0.5, 0.9], seeds=(0, 1), jobs=2, minutes=3, dry_run=True)
    assert not (tmp_path / "grid").exists()
    assert not here
    assert "4 runs (2 points, seeds 0, 1), to run:" in result.budget
    assert "m0.5-seed1: 6 steps of 8, 800 images/s" in result.budget
    assert "2 side by side; this call stops after 3 min" in result.budget
    assert result.as_dict()["runs"][0] == {"name": "m0.5-seed0", "steps": 6}


def test_a_worker_goes_on_where_it_was_and_ends_as_if_never_stopped(data, tmp_path, monkeypatch):
    from moco.training import loop

    options = {**TINY, "seed": 3, "recipe": "cifar", "workers": 1, "test": None}

    def job(name):
        paths = {"folder": tmp_path / name, "outcome": tmp_path / f"{name}.json", "baselines": tmp_path}
        return Job(str(data), options, linear=True, **{key: str(path) for key, path in paths.items()})

    whole = carry_out(job("whole"))
    with monkeypatch.context() as patch:
        patch.setattr(loop, "_should_stop", lambda stop, task, step: step >= 3)
        assert carry_out(job("part")) is None
    steps = []
    one_step = loop.one_step
    monkeypatch.setattr(loop, "one_step", lambda *arguments: steps.append(1) or one_step(*arguments))
    part = carry_out(job("part"))
    assert len(steps) == 3, "the first three are not made again"
    for name in ("loss", "knn_top1", "linear_top1", "pretext_accuracy", "steps"):
        assert part[name] == whole[name], name


SHELL = [
    *("--recipe", "cifar", "--values", "0.5,0.9", "--no-linear"),
    *(f"--set={name}={'null' if value is None else value}" for name, value in TINY.items() if name != "steps"),
]


def shell(data, out, *arguments, **options):
    command = [sys.executable, "-m", "moco", "ablate", "momentum", str(data), "--out", str(out), *SHELL, *arguments]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **options)


def steps_of(run):
    lines = (run / "metrics.jsonl").read_text().splitlines() if (run / "metrics.jsonl").is_file() else []
    return [json.loads(line)["step"] for line in lines]


def wait_for(condition, seconds=90):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.05)


@pytest.mark.slow
def test_the_command_measures_stops_on_ctrl_c_and_goes_on(data, tmp_path):
    out = tmp_path / "grid"
    long = ("--set", "steps=100000", "--jobs", "2")
    process = shell(data, out, *long)
    runs = [out / "runs" / f"m{m}-seed0" for m in (0.5, 0.9)]
    wait_for(lambda: all(steps_of(run) for run in runs))
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130, said
    assert "2 runs (2 points, seed 0), to run" in said
    assert "images/s" in said
    for run in runs:
        summary = json.loads((run / "summary.json").read_text())
        assert not summary["finished"]
        assert (run / "checkpoints" / "last.pt").is_file()
        assert not (run / ".lock").exists()
    before = [json.loads((run / "summary.json").read_text())["steps"] for run in runs]
    process = shell(data, out, *long, "--minutes", "0.5")  # enough to go on, also on a busy machine
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 3, said
    assert "measuring" not in said, "rates are remembered"
    after = [json.loads((run / "summary.json").read_text())["steps"] for run in runs]
    assert all(one > other for one, other in zip(after, before, strict=True))
    assert "unfinished" in (out / "ablation.md").read_text()
