"""Work in parts: what a limit of minutes stops, how the next call goes on, and the benchmark for a GPU on tiny data."""

import dataclasses
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import moco
from moco.commands import transfer_task
from moco.encoder import build_backbone
from moco.errors import UnfinishedError
from moco.export.backbone import write_backbone
from moco.export.load import Pretrained
from moco.normalization import IMAGENET
from moco.transfer.fine_tuning.limit import Limit
from moco.transfer.fine_tuning.loop import FineTuning
from tests.transfer.drawn import CLASSES, draw_coco, draw_voc, make_task
from tests.transfer.test_fine_tune import QUIET, run_of, same

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
import transfer_gpu

TINY = {"iterations": 1, "image_size": 32, "batch_size": 2, "rois": 8, "initialisations": ["moco", "random"]}
NO_TIME = 1e-6  # minutes


def limited():
    return dataclasses.replace(QUIET, limit=Limit(NO_TIME))


def test_a_run_in_parts_is_bitwise_one_that_was_not_stopped(tmp_path):
    task, parts = make_task(tmp_path), []
    whole = run_of(task)
    whole.run()
    while True:
        run = run_of(task, options=limited(), checkpoint=tmp_path / "last.pt")
        parts.append(run.progress.iteration)
        if run.progress.iteration == 4:
            break
        with pytest.raises(UnfinishedError, match="the same command goes on from here"):
            run.run()
    run.run()
    assert parts == [0, 1, 2, 3, 4], "an iteration each, and the test by itself"
    assert same(run.model, whole.model)
    assert run.progress.scores == whole.progress.scores


def test_a_finished_run_needs_no_images_for_its_picture(tmp_path, monkeypatch):
    task, file = make_task(tmp_path), tmp_path / "last.pt"
    run = run_of(task, checkpoint=file)
    run.run()
    monkeypatch.setattr(type(task), "batches", None)
    assert same(run_of(task, checkpoint=file).tested(), run.tested())
    assert not same(run.tested(), run.model)


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """Weights, and DATA as the benchmark wants it."""
    folder = tmp_path_factory.mktemp("gpu")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        backbone = build_backbone("resnet_tiny", image_size=32)
    model = Pretrained(backbone, moco.Preprocessing(32, *IMAGENET))
    write_backbone(model.backbone, folder / "backbone.safetensors", metadata=model.metadata())
    for number, (year, lists) in enumerate({"VOC2007": ("trainval", "test"), "VOC2012": ("trainval",)}.items()):
        names = {part: [f"{number}{index}_{part}" for index in range(2)] for part in lists}
        boxes = {name: [(CLASSES[0], 5, 5, 30, 30)] for part in names.values() for name in part}
        root = draw_voc(folder / "VOCdevkit" / year, boxes)
        for part, listed in names.items():
            (root / "ImageSets" / "Main" / f"{part}.txt").write_text("".join(f"{name}\n" for name in listed))
    for seed, part in enumerate(("train2017", "val2017")):
        draw_coco(folder / "coco" / "annotations", 4, seed=seed, name=f"instances_{part}.json")
        (folder / "coco" / "annotations" / "images").rename(folder / "coco" / part)
    return folder


def test_the_benchmark_stops_goes_on_and_ends(given, tmp_path, monkeypatch, capsys):
    original = transfer_task.scale_of
    few = {"precise": 1, "proposals": 20}
    monkeypatch.setattr(transfer_task, "scale_of", lambda *names: dataclasses.replace(original(*names), **few))
    steps, step = [], FineTuning._step
    monkeypatch.setattr(FineTuning, "_step", lambda self, batch: (steps.append(self.label), step(self, batch))[1])
    tasks, codes = ["voc-c4-24k", "coco-c4-2x"], []
    while not codes or codes[-1] == 3:
        options = {"minutes": NO_TIME, "out": tmp_path, "precision": "fp32", **TINY}
        codes.append(transfer_gpu.work(str(given / "backbone.safetensors"), given, tasks, **options))
        assert len(codes) < 20
    assert codes[-1] == 0
    assert len(steps) == 2 * 2, "no iteration is done twice"
    for task, images in zip(tasks, (4, 4), strict=True):
        stored = json.loads((tmp_path / task / "comparison.json").read_text())
        assert stored["settings"]["train"]["images"] == images
        assert [row["label"] for row in stored["results"]] == ["moco", "random"]
    assert "finished, see" in capsys.readouterr().out
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        other = Pretrained(build_backbone("resnet_tiny", image_size=32), moco.Preprocessing(32, *IMAGENET))
    write_backbone(other.backbone, tmp_path / "other.safetensors", metadata=other.metadata())
    with pytest.raises(moco.MocoError, match="is of a run with another weights"):
        transfer_gpu.work(str(tmp_path / "other.safetensors"), given, tasks[:1], **options)


def test_missing_data_is_named_in_one_line(given, tmp_path):
    with pytest.raises(
        moco.MocoError, match=r"VOC2007/ImageSets/Main/trainval.txt is not there: need VOC 2007 and 2012"
    ):
        transfer_gpu.work(
            str(given / "backbone.safetensors"), tmp_path, ["voc-c4-24k"], minutes=1, out=tmp_path / "out"
        )


def test_images_of_other_years_are_linked_not_copied(given, tmp_path):
    listed = transfer_gpu.voc0712(given / "VOCdevkit", tmp_path / "both")
    assert listed.read_text().split() == ["00_trainval", "01_trainval", "10_trainval", "11_trainval"]
    assert all(path.is_symlink() for path in (tmp_path / "both" / "JPEGImages").iterdir())
    with Image.open(tmp_path / "both" / "JPEGImages" / "10_trainval.jpg") as image:
        assert image.size == (64, 48)
    assert transfer_gpu.voc0712(given / "VOCdevkit", tmp_path / "both") == listed
    copied = shutil.copytree(given / "VOCdevkit", tmp_path / "elsewhere")
    transfer_gpu.voc0712(copied, tmp_path / "both")
    assert all(copied in path.readlink().parents for path in (tmp_path / "both" / "JPEGImages").iterdir())
