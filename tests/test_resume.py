"""A run can be moved, extended and continued: what may be another than before, and what may not."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import moco
from moco.config import Config
from moco.data.record import ImageRecord, RunRecord
from moco.data.source import open_source
from moco.errors import ConfigError, DataError, RunError
from moco.training.images import Earlier, open_images
from tests.conftest import StopAt


@pytest.fixture
def begun(photos, tmp_path, tiny):
    """A run of 6 steps that was stopped after 2."""
    return moco.pretrain(photos, out=tmp_path / "run", quiet=True, callbacks=[StopAt(2)], **tiny).path


def weights(run: Path) -> dict[str, torch.Tensor]:
    return dict(torch.load(run / "checkpoints" / "last.pt", weights_only=True)["model"])


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def content(run: Path) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_a_folder_that_has_changed_is_refused_with_the_difference(begun, photos):
    before = content(begun)
    (photos / "cats" / "roll0" / "00.jpg").unlink()
    shutil.copy(photos / "dogs" / "roll0" / "03.jpg", photos / "dogs" / "roll0" / "new.jpg")
    (photos / "cats" / "roll2" / "02.jpg").write_bytes(b"another")
    with pytest.raises(DataError) as refused:
        moco.pretrain(out=begun, resume=True, quiet=True)
    said = str(refused.value)
    assert "1 gone (cats/roll0/00.jpg)" in said
    assert "1 new (dogs/roll0/new.jpg)" in said
    assert "1 of another size or content (cats/roll2/02.jpg)" in said
    assert "--changed-images" in said
    assert content(begun) == before


def test_changed_images_are_taken_where_it_is_said_and_the_schedule_stays(begun, photos):
    for path in sorted((photos / "cats").rglob("*.jpg"))[:6]:
        path.unlink()
    run = moco.pretrain(out=begun, resume=True, changed_images=True, quiet=True)
    lines = [json.loads(line) for line in (begun / "metrics.jsonl").read_text().splitlines()]
    epochs = {line["step"]: line["epoch"] for line in lines if "epoch" in line}
    assert run.finished
    assert epochs[4] == 2 * epochs[2], "an epoch is as long as at the start, though the folder is smaller"
    moco.pretrain(out=begun, resume=True, quiet=True, steps=8)  # what is stored now is the changed folder


def test_held_out_images_stay_held_out(photos):
    config = Config(recipe="v2", batch_size=4, held_out=0.25, seed=3)
    first = open_images(photos, config)
    assert first.held_out is not None
    held_out = {first.source.item_name(int(index)) for index in first.held_out}
    shutil.copy(photos / "dogs" / "roll0" / "03.jpg", photos / "cats" / "000.jpg")
    afresh = open_images(photos, config)
    assert {afresh.source.item_name(int(index)) for index in afresh.held_out} != held_out, "a draw of its own differs"
    resumed = open_images(photos, config, Earlier(config, first.record, accepted=True))
    assert {resumed.source.item_name(int(index)) for index in resumed.held_out} == held_out
    learnt = {resumed.source.item_name(int(index)) for index in resumed.pretraining}
    assert "cats/000.jpg" in learnt
    assert not learnt & held_out


def test_a_held_out_image_that_comes_back_is_not_learnt_from(photos, tmp_path):
    config = Config(recipe="v2", batch_size=4, held_out=0.25)
    first = open_images(photos, config)
    name = first.source.item_name(int(first.held_out[0]))
    shutil.move(photos / name, tmp_path / "aside.jpg")
    without = open_images(photos, config, Earlier(config, first.record, accepted=True))
    assert len(without.held_out) == len(first.held_out) - 1
    shutil.move(tmp_path / "aside.jpg", photos / name)
    again = open_images(photos, config, Earlier(config, without.record, accepted=True))
    assert name in {again.source.item_name(int(index)) for index in again.held_out}


def test_the_same_images_at_another_place_go_on(begun, photos, tmp_path, monkeypatch):
    whole = tmp_path / "whole"
    shutil.copytree(begun, whole)
    moco.pretrain(out=whole, resume=True, quiet=True)
    photos.rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="no such folder"):
        moco.pretrain(out=begun, resume=True, quiet=True)
    (tmp_path / "deeper").mkdir()
    monkeypatch.chdir(tmp_path / "deeper")
    moco.pretrain("../elsewhere", out=begun, resume=True, quiet=True)
    assert equal(weights(begun), weights(whole))
    assert f"data: {tmp_path}/elsewhere\n" in (begun / "config.yaml").read_text()


def test_other_images_at_the_old_place_are_refused(begun, photos):
    shutil.rmtree(photos / "cats")
    shutil.copytree(photos / "dogs", photos / "cats")
    with pytest.raises(DataError, match="not the images that the run began with"):
        moco.pretrain(photos, out=begun, resume=True, quiet=True)


def test_paths_compare_as_places(begun, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert moco.pretrain("./photos/", out=begun, resume=True, quiet=True).finished


def test_speed_and_what_is_seen_of_a_run_may_change(begun, photos, tmp_path):
    whole = tmp_path / "whole"
    shutil.copytree(begun, whole)
    moco.pretrain(out=whole, resume=True, quiet=True)
    options = {"workers": 1, "cache_gib": 0.0, "log_every": 1, "knn_evaluations": 3, "accelerator": "cpu"}
    run = moco.pretrain(out=begun, resume=True, quiet=True, **options)
    assert equal(weights(begun), weights(whole))
    assert run.config.log_every == 1
    assert len((begun / "metrics.jsonl").read_text().splitlines()) > len(
        (whole / "metrics.jsonl").read_text().splitlines()
    )


def test_what_is_learnt_may_not_change(begun):
    before = content(begun)
    for options in ({"temperature": 0.5}, {"batch_size": 2}, {"test": "."}, {"held_out": 0.5}, {"seed": 5}):
        with pytest.raises(ConfigError, match=f"has {next(iter(options))}="):
            moco.pretrain(out=begun, resume=True, quiet=True, **options)
    assert content(begun) == before


def test_a_longer_run_has_the_learning_rate_of_a_run_of_that_length(begun, photos, tmp_path, tiny, capsys):
    moco.pretrain(out=begun, resume=True, steps=10, log_every=1)
    assert "10 steps in the place of 6: from step 2 on" in capsys.readouterr().err
    moco.pretrain(photos, out=tmp_path / "ten", quiet=True, **{**tiny, "steps": 10, "log_every": 1})
    rates = [
        {line["step"]: line["learning_rate"] for line in map(json.loads, text.splitlines()) if "learning_rate" in line}
        for text in ((run / "metrics.jsonl").read_text() for run in (begun, tmp_path / "ten"))
    ]
    assert {step: rates[0][step] for step in range(3, 11)} == {step: rates[1][step] for step in range(3, 11)}


def test_a_run_is_extended_after_its_end_but_not_shortened_into_its_past(photos, tmp_path, tiny):
    run = moco.pretrain(photos, out=tmp_path / "run", quiet=True, **tiny)
    before = content(run.path)
    with pytest.raises(RunError, match="at step 6 of 6, beyond 4"):
        moco.pretrain(out=run.path, resume=True, quiet=True, steps=4)
    assert content(run.path) == before
    longer = moco.pretrain(out=run.path, resume=True, quiet=True, epochs=3)
    assert longer.summary["steps"] == 3 * 4
    assert (longer.config.epochs, longer.config.steps) == (3, None)


def test_a_finished_run_stays_as_it_is(photos, tmp_path, tiny, capsys):
    run = moco.pretrain(photos, out=tmp_path / "run", quiet=True, **tiny)
    before = content(run.path)
    (run.path / ".lock").touch()  # of a process that was killed at its very end
    assert moco.pretrain(out=run.path, resume=True, workers=1).finished
    assert not (run.path / ".lock").exists()
    assert "has finished and stays as it is: more than its 6 steps continue it" in capsys.readouterr().err
    assert content(run.path) == before


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(photos, tmp_path, tiny, capsys):
    options = {**tiny, "checkpoint_minutes": 0}
    whole = moco.pretrain(photos, out=tmp_path / "whole", quiet=True, **options).path
    run = moco.pretrain(photos, out=tmp_path / "run", quiet=True, callbacks=[StopAt(4)], **options).path
    files = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert files == ["last-1.pt", "last.pt"]
    newest = run / "checkpoints" / "last.pt"
    damaged = bytearray(newest.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    newest.write_bytes(damaged)
    moco.pretrain(out=run, resume=True)
    said = capsys.readouterr().err
    assert f"{newest} is not a readable checkpoint" in said
    assert "of last-1.pt" in said
    assert equal(weights(run), weights(whole))


def test_only_a_finite_state_is_saved(photos, tmp_path, tiny):
    class Spoil(StopAt):
        def on_step_end(self, training):
            if training.step == 4:
                next(training.model.encoder_q.parameters()).data.fill_(torch.inf)

    options = {**tiny, "log_every": 1000, "checkpoint_minutes": 0}
    with pytest.raises(RunError, match="the loss is nan at step 4"):
        moco.pretrain(photos, out=tmp_path / "run", quiet=True, callbacks=[Spoil(0)], **options)
    for file in (tmp_path / "run" / "checkpoints").glob("*"):
        assert all(value.isfinite().all() for value in torch.load(file, weights_only=True)["model"].values())


def test_images_that_vanish_cost_no_step(photos, tmp_path, tiny):
    class Remove(StopAt):
        def on_step_end(self, training):
            if training.step == 3:
                shutil.move(photos, photos.with_name("away"))

    options = {**tiny, "cache_gib": 0.0, "held_out": 0.0}
    whole = moco.pretrain(photos, out=tmp_path / "whole", quiet=True, **options).path
    with pytest.raises(DataError, match="3 steps are saved"):
        moco.pretrain(photos, out=tmp_path / "run", quiet=True, callbacks=[Remove(0)], **options)
    shutil.move(photos.with_name("away"), photos)
    moco.pretrain(out=tmp_path / "run", resume=True, quiet=True)
    assert equal(weights(tmp_path / "run"), weights(whole))


def test_what_was_skipped_survives_a_kill(photos, tmp_path, tiny):
    for number in (0, 1, 2):
        (photos / "cats" / f"broken{number}.jpg").write_bytes(b"no image")

    class Crash(StopAt):
        def on_step_end(self, training):
            if training.step == 4:
                raise KeyError("as if killed")

    options = {**tiny, "held_out": 0.0, "epochs": 2, "steps": None}
    whole = moco.pretrain(photos, out=tmp_path / "whole", quiet=True, **options)
    with pytest.raises(KeyError):
        moco.pretrain(photos, out=tmp_path / "run", quiet=True, callbacks=[Crash(0)], **options)
    noted = (tmp_path / "run" / "skipped.jsonl").read_bytes()
    assert noted
    (tmp_path / "run" / "skipped.jsonl").write_bytes(noted + b'{"path": "cut sho')
    run = moco.pretrain(out=tmp_path / "run", resume=True, quiet=True)
    assert run.summary["skipped"] == whole.summary["skipped"] == 3
    assert (run.path / "skipped.jsonl").read_bytes() == (whole.path / "skipped.jsonl").read_bytes()


def test_a_record_is_read_back_and_a_damaged_one_refused(photos, tmp_path):
    record = ImageRecord.take(open_source(photos)[0])
    file = tmp_path / "images.npz"
    file.write_bytes(RunRecord(record, None, b"cats/a\0").to_bytes())
    back = RunRecord.read(file)
    assert back is not None
    assert back.learnt.digest == record.digest
    assert (back.test, back.held_out) == (None, b"cats/a\0")
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(DataError, match="is damaged"):
        RunRecord.read(file)
    assert RunRecord.read(tmp_path / "absent.npz") is None


def test_records_of_arrays_and_packs_notice_another_image(tmp_path, photos):
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    np.save(tmp_path / "one.npy", images)
    images[2, 0, 0, 0] ^= 1
    np.save(tmp_path / "other.npy", images)
    one, other = (ImageRecord.take(open_source(tmp_path / f"{name}.npy")[0]) for name in ("one", "other"))
    assert one.differences(other) == ["1 of another size or content (2)"], "the name of the file does not matter"
    moco.pack(photos, out=tmp_path / "pack", quiet=True)
    pack, folder = (ImageRecord.take(open_source(path)[0]) for path in (tmp_path / "pack", photos))
    assert pack.names == folder.names


def test_labels_of_another_file_are_another_set(photos, tmp_path):
    source = open_source(photos)[0]
    names = (*source.class_names[:-1], "wolves")
    found = ImageRecord.take(source).differences(ImageRecord.take(source.with_labels(source.labels, names)))
    assert found == [f"12 of another class ({', '.join(source.item_name(i) for i in (12, 13))}, ...)"]


def test_runs_without_a_record_go_on(begun):
    os.remove(begun / "images.npz")
    assert moco.pretrain(out=begun, resume=True, quiet=True).finished


def test_the_loggers_of_a_run_are_remembered(photos, tmp_path, tiny):
    run = moco.pretrain(photos, out=tmp_path / "run", quiet=True, callbacks=[StopAt(2)], loggers="csv", **tiny)
    moco.pretrain(out=run.path, resume=True, quiet=True)
    with (run.path / "csv" / "metrics.csv").open() as file:
        assert {int(row["step"]) for row in csv.DictReader(file)} >= {2, 4, 6}
    assert not list(run.path.glob("events.out.tfevents.*"))
