"""`moco pack`, from the command line and from Python: what it makes, prints, refuses, checks; and training from it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import moco
from moco.cli import main
from moco.data.pack_format import DATA, INDEX
from moco.errors import DataError


def command(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main([str(argument) for argument in ("pack", *arguments)])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_the_command_makes_a_pack_and_says_what_is_in_it(capsys, photos, tmp_path):
    (photos / "cats" / "bad.jpg").write_text("no image")
    code, out, _ = command(capsys, photos, "--out", tmp_path / "mine")
    assert code == 0
    assert "mine (packed): 24 images of 2 classes" in out
    assert "1 unreadable file was left out: see" in out
    assert f"moco pretrain {tmp_path / 'mine'}" in out
    code, out, err = command(capsys, photos, "--out", tmp_path / "mine", "--json", "--quiet")
    assert (code, err) == (0, "")
    assert json.loads(out) == {
        "path": str(tmp_path / "mine"),
        "done": "unchanged",
        "images": 24,
        "damaged": 1,
        "classes": 2,
        "bytes": (tmp_path / "mine" / DATA).stat().st_size,
        "format": "jpeg",
        "short_side": 256,
        "shape": None,
    }


def test_progress_goes_to_stderr_unless_quiet(capsys, photos, tmp_path):
    assert "packing" in command(capsys, photos, "--out", tmp_path / "one")[2]
    assert command(capsys, photos, "--out", tmp_path / "two", "--quiet")[2] == ""


def test_training_from_a_pack_is_training_from_its_folder(photos, tmp_path, tiny):
    """The same images and labels give the same weights, bit for bit."""
    Image.new("RGB", (90, 60), "teal").save(photos / "cats" / "one.jpg")
    packed = moco.pack(photos, out=tmp_path / "pack", quiet=True)
    runs = [
        moco.pretrain(data, out=tmp_path / f"run{n}", quiet=True, **tiny)
        for n, data in enumerate((photos, packed.path))
    ]
    first, second = (load_file(run.weights) for run in runs)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert runs[0].summary["knn_top1"] == runs[1].summary["knn_top1"]


def test_verify_finds_every_damaged_record(capsys, photos, tmp_path):
    moco.pack(photos, out=tmp_path / "mine", quiet=True)
    code, out, _ = command(capsys, tmp_path / "mine", "--verify")
    assert code == 0
    assert "mine (verified): 24 images" in out
    size = (tmp_path / "mine" / DATA).stat().st_size
    with (tmp_path / "mine" / DATA).open("r+b") as file:
        for place in (0, size - 1):
            file.seek(place)
            byte = file.read(1)
            file.seek(place)
            file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(DataError, match="2 of 24 records are damaged, the first is cats/.*: make it again .*--replace"):
        moco.pack(tmp_path / "mine", verify=True, quiet=True)
    moco.pack(photos, out=tmp_path / "mine", replace=True, quiet=True)
    assert moco.pack(tmp_path / "mine", verify=True, quiet=True).images == 24


def test_verify_finds_a_damaged_table(photos, tmp_path):
    moco.pack(photos, out=tmp_path / "mine", quiet=True)
    with (tmp_path / "mine" / INDEX).open("r+b") as file:
        file.seek(24)
        file.write(b"\x01")
    with pytest.raises(DataError, match="index.bin or names.bin is damaged: make it again"):
        moco.pack(tmp_path / "mine", verify=True, quiet=True)


def test_verify_finds_a_file_that_was_changed_in_place_and_detach_forgets_the_folder(photos, tmp_path):
    moco.pack(photos, out=tmp_path / "mine", quiet=True)
    file = photos / "dogs" / "roll1" / "07.jpg"
    file.write_bytes(file.read_bytes()[:-1] + b"\xd8")
    os.utime(file, ns=(5, 5))
    with pytest.raises(DataError, match="all records are right, but .*photos has changed .* --detach"):
        moco.pack(tmp_path / "mine", verify=True, quiet=True)
    assert moco.pack(tmp_path / "mine", detach=True).done == "detached"
    assert moco.pack(tmp_path / "mine", verify=True, quiet=True).done == "verified"
    file.unlink()
    assert moco.pack(tmp_path / "mine", verify=True, quiet=True).done == "verified"


def test_the_repair_in_a_message_repairs(capsys, photos, tmp_path, monkeypatch):
    """What is printed can be typed."""
    monkeypatch.chdir(tmp_path)
    assert command(capsys, "photos", "--out", "mine", "--short-side", 12, "--format", "raw")[0] == 0
    os.truncate("mine/" + DATA, 10)
    assert main(["pretrain", "mine", "--steps", "1"]) == 2
    repair = capsys.readouterr().err.strip().rpartition("make it again with moco ")[2].split()
    assert main(repair) == 0
    assert moco.pack("mine", verify=True, quiet=True).short_side == 12
    assert moco.pack("mine", verify=True, quiet=True).format == "raw"


@pytest.mark.parametrize("change", ["options", "images"])
def test_a_pack_of_something_else_is_not_overwritten(photos, tmp_path, change):
    moco.pack(photos, out=tmp_path / "mine", quiet=True)
    before = (tmp_path / "mine" / DATA).read_bytes()
    options = {"short_side": 10} if change == "options" else {}
    if change == "images":
        Image.new("RGB", (30, 30)).save(photos / "cats" / "new.jpg")
    with pytest.raises(DataError, match="other images or with other options .*--replace"):
        moco.pack(photos, out=tmp_path / "mine", quiet=True, **options)
    assert (tmp_path / "mine" / DATA).read_bytes() == before
    moco.pack(photos, out=tmp_path / "mine", quiet=True, replace=True, **options)
    assert (tmp_path / "mine" / DATA).read_bytes() != before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("mine")] == ["mine"]


MISTAKES = {
    "photos": "name the pack, as in --out photos.pack",
    "photos --out photos": "photos: there already, and not a pack",
    "photos --verify": "photos: not a pack; expected a folder that moco pack made",
    "nowhere --detach": "nowhere: no such folder",
    "nowhere --out mine": "nowhere: no such folder or file",
    "photos --out mine --verify": "verify and detach go alone",
    "mine --detach --verify": "verify and detach go alone",
    "photos --out mine --short-side -5": "short_side=-5",
    "photos --out mine --quality 0": "quality=0",
    "photos --out mine --quality 101": "quality=101",
    "photos --out mine --workers 0": "workers=0",
    "photos --out mine --format png": "format",
    "photos --out file/mine": "cannot write file/mine: Not a directory",
    "there --out mine": "there: a pack already; check it with --verify",
    "array.npy --out mine": "array.npy: not a folder of images",
}


def test_a_mistake_is_one_line_and_exit_code_2(capsys, photos, monkeypatch):
    monkeypatch.chdir(photos.parent)
    Path("file").write_text("")
    np.save("array.npy", np.zeros((3, 8, 8, 3), dtype=np.uint8))
    moco.pack("photos", out="there", quiet=True)
    for arguments, message in MISTAKES.items():
        code, out, err = command(capsys, *arguments.split(), "--quiet")
        assert (code, out) == (2, ""), arguments
        assert message in err, arguments
        assert err.count("\n") == 1, err
        assert not Path("mine").exists()


def test_a_full_disk_is_one_line_and_the_pack_goes_on_later(photos, tmp_path, monkeypatch):
    from moco.data import packing

    to_disk = packing._to_disk

    def full(file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(packing, "_to_disk", full)
    with pytest.raises(
        moco.MocoError, match="mine: No space left on device; once that is cured, the same command goes on"
    ):
        moco.pack(photos, out=tmp_path / "mine", quiet=True)
    monkeypatch.setattr(packing, "_to_disk", to_disk)
    assert moco.pack(photos, out=tmp_path / "mine", quiet=True).images == 24


def test_the_lock_of_a_call_that_was_killed_at_its_end_is_removed_by_the_next(photos, tmp_path):
    moco.pack(photos, out=tmp_path / "mine", quiet=True)
    (tmp_path / "mine" / ".lock").touch()
    assert moco.pack(photos, out=tmp_path / "mine", quiet=True).done == "unchanged"
    assert not (tmp_path / "mine" / ".lock").exists()
