"""`moco.transfer` and `moco transfer` from annotations to the table."""

import dataclasses
import json

import pytest
import torch
from PIL import Image

import moco
from moco.cli.main import main
from moco.encoder import build_backbone
from moco.errors import ConfigError, DataError, RunError
from moco.export.backbone import write_backbone
from moco.export.load import Pretrained
from moco.normalization import IMAGENET
from moco.transfer.fine_tuning.scale import SMALL as SCALE
from tests.transfer.drawn import draw_coco

SMALL = {"iterations": 2, "image_size": 32, "batch_size": 2, "width": 8, "rois": 8, "quiet": True}


@pytest.fixture(autouse=True)
def few_batches(monkeypatch):
    """BatchNorm's statistics from 2 batches instead of 50."""
    monkeypatch.setattr("moco.transfer.fine_tuning.scale.SMALL", dataclasses.replace(SCALE, precise=2))


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """Weights, annotations, and labelled images."""
    folder = tmp_path_factory.mktemp("transfer")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        backbone = build_backbone("resnet_tiny", image_size=32)
    model = Pretrained(backbone, moco.Preprocessing(32, *IMAGENET))
    write_backbone(model.backbone, folder / "backbone.safetensors", metadata=model.metadata())
    train = draw_coco(folder, 6)
    test = draw_coco(folder, 4, seed=1, name="instances_test.json")
    for kind, colour in {"red": (250, 0, 0), "green": (0, 250, 0)}.items():
        (folder / "labelled" / kind).mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (32, 32), colour).save(folder / "labelled" / kind / f"{number}.png")
    weights = {"backbone": str(folder / "backbone.safetensors"), "train": str(train), "test": str(test)}
    return {**weights, "labelled": str(folder / "labelled")}


def test_three_initialisations_and_two_seeds(given, tmp_path, monkeypatch):
    monkeypatch.setattr("moco.evaluation.finetune.LEAST_STEPS", 2)
    monkeypatch.setattr("moco.evaluation.finetune.EPOCHS", 1)
    found = moco.transfer("detection", **given, **SMALL, out=str(tmp_path / "out"), seeds=2)
    assert [row.label for row in found.rows] == ["moco", "random", "supervised"]
    assert all(len(row.scores) == 2 and "AP/red" in row.scores[0] for row in found.rows)
    assert [(each.of, each.to) for each in found.differences] == [
        ("moco", "random"),
        ("moco", "supervised"),
        ("supervised", "random"),
    ]
    stored = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert stored["results"] == json.loads(json.dumps(found.as_dict()["results"]))
    assert stored["settings"]["train"]["images"] == 6
    with Image.open(tmp_path / "out" / "detection.png") as picture:
        assert picture.height > 4 * 200  # truth and three initialisations
    text = str(found)
    assert "AP of moco less random" in text
    assert "trained on the labels of" in text


@pytest.mark.parametrize(("task", "figures"), [("instance-segmentation", "box_AP"), ("keypoints", "box_AP50")])
def test_masks_and_keypoints(given, tmp_path, task, figures):
    options = {name: given[name] for name in ("backbone", "train", "test")} | SMALL
    found = moco.transfer(task, **options, out=str(tmp_path), initialisations=("moco",))
    assert {"AP", figures} <= set(found.row("moco").scores[0])
    assert (tmp_path / f"{task}.png").is_file()


def test_the_command_goes_on_where_it_was_and_prints_json(given, tmp_path, capsys, monkeypatch):
    line = ["transfer", "detection", "--out", str(tmp_path), "--initialisations", "moco,random", "--quiet", "--json"]
    line += [f"--{name}={given[name]}" for name in ("backbone", "train", "test")]
    line += [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items() if name != "quiet"]
    assert main(line) == 0
    first = json.loads(capsys.readouterr().out)
    monkeypatch.setattr("moco.transfer.fine_tuning.loop.FineTuning._step", None)
    assert main(line) == 0
    assert json.loads(capsys.readouterr().out)["results"] == first["results"]
    assert main([*line, "--rois", "9"]) == 2
    assert "is of a run with another task" in capsys.readouterr().err


def test_supervised_weights_that_are_not_to_be_had_are_left_out_with_the_reason(given, tmp_path):
    options = {name: given[name] for name in ("backbone", "train", "test")} | SMALL
    found = moco.transfer("detection", **options, out=str(tmp_path), initialisations=("moco", "supervised"))
    assert [row.label for row in found.rows] == ["moco"]
    assert any(note.startswith("supervised weights left out: ImageNet") for note in found.notes)


def test_settings_of_a_later_run_are_refused_before_an_earlier_one_is_trained(given, tmp_path, monkeypatch):
    options = {name: given[name] for name in ("backbone", "train", "test")} | SMALL | {"out": str(tmp_path)}
    moco.transfer("detection", **options, initialisations=("random",))
    monkeypatch.setattr("moco.transfer.fine_tuning.loop.FineTuning._step", None)
    with pytest.raises(moco.MocoError, match=r"random-0.pt is of a run with another schedule"):
        moco.transfer("detection", **options | {"iterations": 3}, initialisations=("moco", "random"))


def test_supervised_weights_of_another_seed_are_refused(given, tmp_path, monkeypatch):
    monkeypatch.setattr("moco.evaluation.finetune.LEAST_STEPS", 1)
    monkeypatch.setattr("moco.evaluation.finetune.EPOCHS", 1)
    options = given | SMALL | {"out": str(tmp_path), "initialisations": ("supervised",)}
    moco.transfer("detection", **options)
    with pytest.raises(moco.MocoError, match=r"seed 0; now .*seed 1: choose another --out"):
        moco.transfer("detection", **options, seed=1)


def test_tests_on_the_way_are_in_the_report(given, tmp_path):
    options = {name: given[name] for name in ("backbone", "train", "test")} | SMALL
    found = moco.transfer("detection", **options, out=str(tmp_path), initialisations=("moco",), score_every=1)
    assert [step for step, _ in found.row("moco").on_the_way[0]] == [1, 2]


REFUSED = {
    "without backbone": ({"backbone": None}, ConfigError, "transfer detection without backbone"),
    "without out": ({"out": None}, ConfigError, "transfer detection without out"),
    "unknown schedule": ({"schedule": "long"}, ConfigError, "choose one of small"),
    "unknown initialisation": ({"initialisations": ("imagenet",)}, ConfigError, "choose among moco, random"),
    "no iterations": ({"iterations": 0}, ConfigError, "iterations=0"),
    "batch too large": ({"batch_size": 64}, ConfigError, "batch_size=64 of 6 train images"),
    "width of c4": ({"architecture": "c4"}, ConfigError, "width=8 would change nothing"),
    "labels for nothing": ({"labelled": "x", "initialisations": ("moco",)}, ConfigError, "would change nothing"),
    "no weights": ({"backbone": "nothing.safetensors"}, RunError, "nothing.safetensors"),
    "no device": ({"device": "nonsense"}, ConfigError, "device='nonsense'"),
    "rate": ({"learning_rate": 0.0}, ConfigError, "learning_rate=0"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_work_is_refused_before_anything_is_written(given, tmp_path, name):
    change, kind, said = REFUSED[name]
    options = {n: given[n] for n in ("backbone", "train", "test")} | SMALL | {"out": str(tmp_path / "out")} | change
    with pytest.raises(kind, match=said):
        moco.transfer("detection", **options)
    assert not list((tmp_path / "out").glob("*"))


def test_masks_of_a_file_of_boxes_are_refused(given, tmp_path):
    def without(content):
        return [each.pop("segmentation") for each in content["annotations"]]

    from tests.transfer.drawn import changed

    file = changed(draw_coco(tmp_path), without)
    options = {"backbone": given["backbone"], "train": str(file), "test": given["test"], "out": str(tmp_path / "o")}
    with pytest.raises(DataError, match="no object with outlines"):
        moco.transfer("instance-segmentation", **options, **SMALL)


def test_the_name_stays_a_function_after_its_room_was_imported():
    import moco.transfer.fine_tuning.task

    with pytest.raises(ConfigError, match="without backbone"):
        moco.transfer("detection")
