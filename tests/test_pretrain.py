"""The command as a Python function, on real files in small numbers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors import safe_open

import moco
from moco.errors import ConfigError, DataError, MocoError, RunError
from tests.conftest import StopAt

SUMMARY_KEYS = {
    "loss",
    "knn_top1",
    "knn_random_init",
    "knn_pixels",
    "images_per_second",
    "seconds",
    "peak_memory_bytes",
    "skipped",
    "seed",
    "versions",
}


def weights(run: moco.Run) -> dict[str, torch.Tensor]:
    with safe_open(run.weights, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def same(first: moco.Run, second: moco.Run) -> bool:
    one, two = weights(first), weights(second)
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def losses(run: moco.Run) -> list[float]:
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def test_a_folder_becomes_a_run_with_everything_in_it(photos, tmp_path, tiny):
    run = moco.pretrain(photos, out=tmp_path / "run", quiet=True, **tiny)
    assert run.finished
    assert set(run.summary) >= SUMMARY_KEYS
    assert json.loads((run.path / "summary.json").read_text()) == run.summary
    assert 0 <= run.summary["knn_top1"] <= 1
    names = {path.name for path in run.path.iterdir()}
    assert names >= {"config.yaml", "metrics.jsonl", "summary.json", "backbone.safetensors", "checkpoints"}
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert not any(name.endswith(".partial") or name == ".lock" for name in names)
    assert len(losses(run)) == 3
    stored = yaml.safe_load((run.path / "config.yaml").read_text())
    assert stored["data"] == str(photos)
    assert stored["batch_size"] == 4


def test_the_weights_say_what_they_are_and_load_into_the_backbone(photos, tmp_path, tiny):
    from moco.encoder import build_backbone

    run = moco.pretrain(photos, out=tmp_path / "run", quiet=True, **{**tiny, "backbone": "resnet18", "steps": 1})
    with safe_open(run.weights, framework="pt") as file:
        header = file.metadata()
    backbone = build_backbone(header["architecture"], image_size=int(header["image_size"]), stem=header["stem"])
    backbone.module.load_state_dict(weights(run))
    assert int(header["feature_dim"]) == backbone.feature_dim == 512
    assert set(json.loads(header["preprocessing"])) >= {"mean", "std", "size"}


@pytest.mark.parametrize("array", [False, True], ids=["folder", "array"])
def test_same_seed_same_result_and_another_seed_another(photos, tmp_path, tiny, array):
    data = np.random.default_rng(0).integers(0, 256, (16, 20, 20, 3), dtype=np.uint8) if array else photos
    first, second, other = (
        moco.pretrain(data, out=tmp_path / str(i), quiet=True, seed=seed, **tiny) for i, seed in enumerate((3, 3, 4))
    )
    assert same(first, second)
    assert losses(first) == losses(second)
    assert not same(first, other)


@pytest.mark.parametrize(
    ("symmetric", "workers", "optimizer"),
    [(False, 0, "sgd"), (True, 0, "sgd"), (False, 2, "sgd"), (False, 0, "muon")],
)
def test_resume_is_bitwise_identical(photos, tmp_path, tiny, symmetric, workers, optimizer):
    """Also with other workers than those of the first part."""
    options = {**tiny, "symmetric": symmetric, "optimizer": optimizer}
    whole = moco.pretrain(photos, out=tmp_path / "whole", quiet=True, **options)
    options["workers"] = workers
    part = moco.pretrain(photos, out=tmp_path / "part", quiet=True, callbacks=[StopAt(3)], **options)
    assert not part.finished
    assert part.summary["steps"] == 3
    continued = moco.pretrain(out=tmp_path / "part", resume=True, quiet=True, workers=2 - workers)
    assert continued.finished
    assert same(whole, continued)
    assert losses(whole) == losses(continued)
    for key in ("loss", "knn_top1", "knn_random_init", "knn_pixels"):
        assert continued.summary[key] == whole.summary[key]
    one, two = (torch.load(run.path / "checkpoints" / "last.pt", weights_only=True) for run in (whole, continued))
    assert all(torch.equal(one["model"][name], two["model"][name]) for name in one["model"]), (
        "queue and key encoder too"
    )


def test_damaged_files_are_skipped_counted_and_listed(photos, tmp_path, tiny):
    damaged = photos / "cats" / "roll0" / "broken.jpg"
    damaged.write_bytes(b"\xff\xd8 this is no JPEG")
    cut = sorted(photos.rglob("*.jpg"))[0]
    cut.write_bytes(cut.read_bytes()[:200])
    run = moco.pretrain(photos, out=tmp_path / "run", quiet=True, **{**tiny, "steps": 20})
    listed = [json.loads(line) for line in (run.path / "skipped.jsonl").read_text().splitlines()]
    assert run.finished
    assert run.summary["skipped"] == len(listed) == 2
    assert {Path(line["path"]).name for line in listed} == {damaged.name, cut.name}


def test_without_labels_there_is_no_knn_figure(tmp_path, tiny):
    images = np.random.default_rng(0).integers(0, 256, (12, 18, 18, 3), dtype=np.uint8)
    run = moco.pretrain(images, out=tmp_path / "run", quiet=True, **tiny)
    assert run.summary["knn_top1"] is None
    assert run.summary["images"] == 12, "nothing is held out where there is nothing to measure"


def test_patterns_are_stored_resumed_and_held_to(photos, tmp_path, tiny):
    options = {"include": ["cats", "dogs"], "exclude": ["*/roll0"], **tiny}
    run = moco.pretrain(photos, out=tmp_path / "run", quiet=True, callbacks=[StopAt(2)], **options)
    assert run.summary["images"] == 12, "of 24, 8 are left out and 4 of 16 held out"
    assert (run.config.include, run.config.exclude) == (("cats", "dogs"), ("*/roll0",))
    resumed = moco.pretrain(out=tmp_path / "run", resume=True, quiet=True, exclude=["*/roll0"])
    assert (resumed.finished, resumed.summary["images"]) == (True, 12)
    with pytest.raises(ConfigError, match="has exclude=.*, not exclude="):
        moco.pretrain(out=tmp_path / "run", resume=True, quiet=True, exclude=["*/roll1"])


def test_the_last_line_is_a_verdict_once_the_run_has_finished(photos, tmp_path, tiny, capsys):
    stopped = moco.pretrain(photos, out=tmp_path / "run", callbacks=[StopAt(2)], **tiny)
    assert stopped.summary["verdict"] is None
    assert capsys.readouterr().err.count("classes: 2 from the folders") == 1
    run = moco.pretrain(out=tmp_path / "run", resume=True)
    assert "untrained" in run.summary["verdict"]
    assert capsys.readouterr().err.splitlines()[-1] == f"verdict: {run.summary['verdict']}"
    run = moco.pretrain(photos, out=tmp_path / "blind", **{**tiny, "knn_evaluations": 0})
    assert run.summary["verdict"] is None
    assert "verdict" not in capsys.readouterr().err


def test_held_out_images_are_not_learnt_from(photos, tmp_path, tiny):
    run = moco.pretrain(photos, out=tmp_path / "run", quiet=True, **tiny)
    assert run.summary["images"] == 18


def test_labels_decide_nothing_but_the_evaluation(photos, tmp_path, tiny):
    files = sorted(str(path.relative_to(photos)) for path in photos.rglob("*.jpg"))
    table = tmp_path / "labels.csv"
    runs = []
    for number, classes in enumerate(("ab", "abc")):
        table.write_text("path,label\n" + "".join(f"{f},{classes[i % len(classes)]}\n" for i, f in enumerate(files)))
        options = {**tiny, "test": str(photos), "labels": None}
        del options["test"]
        runs.append(
            moco.pretrain(
                photos, out=tmp_path / f"run{number}", quiet=True, **{**options, "labels": str(table), "held_out": 0.0}
            )
        )
    assert same(*runs)


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("dictionary_size", 0, ConfigError),
        ("temperature", 0.0, ConfigError),
        ("batch_size", 1, ConfigError),
        ("batch_size", 64, ConfigError),
        ("backbone", "resnet81", MocoError),
        ("bakbone", "resnet18", ConfigError),
        ("epochs", 3, ConfigError),
        ("lr_milestones", (0.5,), ConfigError),
        ("labels", "missing.csv", DataError),
        ("include", "*.jpg", ConfigError),
        ("exclude", ("",), ConfigError),
    ],
)
def test_bad_options_are_refused_with_nothing_written(photos, tmp_path, tiny, field, value, error):
    with pytest.raises(error, match=value if isinstance(value, str) and error is not ConfigError else field):
        moco.pretrain(photos, out=tmp_path / "run", quiet=True, **{**tiny, field: value})
    assert not (tmp_path / "run").exists()


def test_a_used_folder_is_refused_and_untouched(photos, tmp_path, tiny):
    run = moco.pretrain(photos, out=tmp_path / "run", quiet=True, **tiny)
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    with pytest.raises(RunError, match="--resume"):
        moco.pretrain(photos, out=tmp_path / "run", quiet=True, **tiny)
    assert before == {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}


def test_resume_refuses_other_options(photos, tmp_path, tiny):
    moco.pretrain(photos, out=tmp_path / "run", quiet=True, **tiny)
    with pytest.raises(ConfigError, match=r"has temperature=0\.2, not temperature=0\.5"):
        moco.pretrain(photos, out=tmp_path / "run", resume=True, quiet=True, temperature=0.5)


def test_pretraining_leaves_the_callers_random_state_alone(photos, tmp_path, tiny):
    torch.manual_seed(1)
    expected = torch.randn(3)
    torch.manual_seed(1)
    moco.pretrain(photos, out=tmp_path / "run", quiet=True, **tiny)
    assert torch.equal(torch.randn(3), expected)
