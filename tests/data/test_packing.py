"""Packing survives whatever interrupts it, keeps what is small as it is, and never gives half a pack its name."""

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import moco
from moco.data import packing
from moco.data.folder import FolderSource
from moco.data.pack_format import DAMAGED, DATA, INDEX, NAMES, ROW
from moco.data.packed import PackedSource
from moco.errors import DataError, RunError


@pytest.fixture(autouse=True)
def small_steps(monkeypatch):
    monkeypatch.setattr(packing, "CHECKPOINT", 3)
    monkeypatch.setattr(packing, "_AHEAD", 4)


def pack(data, out, **options):
    return moco.pack(data, out=out, quiet=True, **{"workers": 2, **options})


def content(path):
    return {name: hashlib.sha256((path / name).read_bytes()).hexdigest() for name in (DATA, INDEX, NAMES, DAMAGED)}


class Stop(BaseException):
    """As Ctrl-C."""


def stop_after(monkeypatch, count):
    """Packing ends in the middle of image `count`."""
    add = packing.PackWriter.add

    def limited(self, *arguments, **options):
        if self.position == count:
            raise Stop
        add(self, *arguments, **options)

    monkeypatch.setattr(packing.PackWriter, "add", limited)


@pytest.fixture
def spoilt(photos):
    """The folder with three files that are no images: the first, one in the middle, the last."""
    for number, place in ((0, "cats/roll0"), (11, "dogs/roll2"), (23, "dogs/roll2")):
        (photos / place / f"{number:02d}.jpg").write_text("no image")
    return photos


@pytest.mark.parametrize("count", [0, 1, 5, 6, 23])
def test_an_interrupted_pack_goes_on_to_the_same_end(spoilt, tmp_path, monkeypatch, count):
    pack(spoilt, tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_after(patch, count)
        with pytest.raises(Stop):
            pack(spoilt, tmp_path / "parts")
    assert not (tmp_path / "parts").exists()
    read = []
    with monkeypatch.context() as patch:
        encode = packing.encode
        patch.setattr(
            packing, "encode", lambda source, index, options: read.append(index) or encode(source, index, options)
        )
        done = pack(spoilt, tmp_path / "parts")
    assert sorted(read) == list(range(count - (count in (1, 12, 24)), 24))  # a damaged file at the end is tried again
    assert content(tmp_path / "parts") == content(tmp_path / "whole")
    assert (done.images, done.damaged) == (21, 3)
    assert not (tmp_path / "parts.partial").exists()


@pytest.mark.parametrize("name", [INDEX, DATA, NAMES])
def test_what_a_crash_took_from_the_end_is_made_again(spoilt, tmp_path, monkeypatch, name):
    pack(spoilt, tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_after(patch, 20)
        with pytest.raises(Stop):
            pack(spoilt, tmp_path / "parts")
    for lost in (1, 39, 40, 500, 1200):
        shutil.copytree(tmp_path / "parts.partial", tmp_path / f"{lost}.partial")
        file = tmp_path / f"{lost}.partial" / name
        os.truncate(file, max(0, file.stat().st_size - lost))
        pack(spoilt, tmp_path / str(lost))
        assert content(tmp_path / str(lost)) == content(tmp_path / "whole"), lost


def test_rubbish_behind_the_last_row_goes_away(spoilt, tmp_path, monkeypatch):
    pack(spoilt, tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_after(patch, 12)
        with pytest.raises(Stop):
            pack(spoilt, tmp_path / "parts")
    for name in (DATA, NAMES, DAMAGED):
        with (tmp_path / "parts.partial" / name).open("ab") as file:
            file.write(b"half a rec")
    pack(spoilt, tmp_path / "parts")
    assert content(tmp_path / "parts") == content(tmp_path / "whole")


def test_ctrl_c_ends_the_command_and_the_same_command_goes_on(tmp_path):
    """A real process, and a real signal."""
    (tmp_path / "many").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (700, 900, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "many" / "0000.png")
    for number in range(1, 150):
        (tmp_path / "many" / f"{number:04d}.png").hardlink_to(tmp_path / "many" / "0000.png")
    command = [sys.executable, "-m", "moco", "pack", "many", "--out", "pack", "--short-side", "64", "--workers", "1"]
    environment = {**os.environ, "PYTHONPATH": str(Path(moco.__file__).parents[1])}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    data = tmp_path / "pack.partial" / DATA
    deadline = time.monotonic() + 60
    while not (data.is_file() and data.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130, said
    assert "of 150 images are packed: the same command goes on from there" in said
    assert "Traceback" not in said
    rows = (tmp_path / "pack.partial" / INDEX).stat().st_size // ROW.itemsize
    assert 0 < rows < 150
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert f"going on behind {rows} of 150 images" in ended.stderr
    assert len(PackedSource(tmp_path / "pack")) == 150


def test_two_processes_do_not_write_one_pack(photos, tmp_path):
    fcntl = pytest.importorskip("fcntl")
    (tmp_path / "mine.partial").mkdir()
    with (tmp_path / "mine.partial" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RunError, match="in use by another process that is making this pack: wait"):
            pack(photos, tmp_path / "mine")


def test_what_was_begun_differently_is_not_gone_on_with(photos, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 9)
        with pytest.raises(Stop):
            pack(photos, tmp_path / "mine")
    with pytest.raises(DataError, match="other images or with other options .*add --replace"):
        pack(photos, tmp_path / "mine", short_side=10)
    (photos / "cats" / "roll0" / "00.jpg").write_bytes(b"other")
    with pytest.raises(DataError, match="other images or with other options"):
        pack(photos, tmp_path / "mine")
    assert pack(photos, tmp_path / "mine", replace=True).images == 23


def test_a_disk_that_forgets_is_found_out_before_the_pack_has_its_name(photos, tmp_path, monkeypatch):
    to_disk = packing._to_disk

    def forgetful(file):
        to_disk(file)
        if file.name.endswith(DATA):
            os.pwrite(file.fileno(), b"\0", 100)

    monkeypatch.setattr(packing, "_to_disk", forgetful)
    with pytest.raises(DataError, match="the disk does not hold what was written .*cats/roll0/00.jpg"):
        pack(photos, tmp_path / "mine")
    assert not (tmp_path / "mine").exists()


def test_a_folder_of_damaged_files_is_no_pack(tmp_path):
    (tmp_path / "images").mkdir()
    for number in range(3):
        (tmp_path / "images" / f"{number}.jpg").write_text("no image")
    with pytest.raises(DataError, match="none of 3 images"):
        pack(tmp_path / "images", tmp_path / "mine")
    assert not (tmp_path / "mine").exists()


def test_damaged_images_are_left_out_and_listed(spoilt, tmp_path):
    done = pack(spoilt, tmp_path / "mine")
    listed = [json.loads(line) for line in (done.path / DAMAGED).read_text().splitlines()]
    assert [note["path"] for note in listed] == ["cats/roll0/00.jpg", "dogs/roll2/11.jpg", "dogs/roll2/23.jpg"]
    assert all(note["reason"] == "not an image in a known format" for note in listed)
    source, packed = FolderSource(spoilt), PackedSource(done.path)
    names = [packed.item_name(index) for index in range(21)]
    assert names == [source.item_name(i) for i in range(24) if source.item_name(i) not in {n["path"] for n in listed}]
    assert [packed.class_names[label] for label in packed.labels] == [name.partition("/")[0] for name in names]


def save(folder, name, image, **options):
    folder.mkdir(exist_ok=True)
    image.save(folder / name, **options)


def picture(size, mode="RGB"):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).convert(mode)


@pytest.mark.parametrize("short_side", [0, 40, 64])
@pytest.mark.parametrize("kind", ["jpeg", "raw"])
def test_large_images_are_reduced_to_the_short_side_and_small_ones_kept(tmp_path, short_side, kind):
    sizes = [(60, 90), (90, 60), (64, 64), (30, 200), (40, 40), (500, 41)]
    for number, size in enumerate(sizes):
        save(tmp_path / "images", f"{number}.jpg", picture(size), quality=90)
    done = pack(tmp_path / "images", tmp_path / "mine", short_side=short_side, format=kind)
    source, packed = FolderSource(tmp_path / "images"), PackedSource(done.path)
    for index, (width, height) in enumerate(sizes):
        small = short_side == 0 or min(width, height) <= short_side
        scale = 1.0 if small else short_side / min(width, height)
        assert packed.pixels(index).shape == (round(height * scale), round(width * scale), 3)
        if small:
            np.testing.assert_array_equal(packed.pixels(index), source.pixels(index))
            assert kind == "raw" or packed.record(index) == source.path(index).read_bytes()
        else:
            height, width = packed.pixels(index).shape[:2]
            expected = Image.fromarray(source.pixels(index)).resize((width, height), Image.Resampling.BICUBIC)
            assert np.abs(packed.pixels(index).astype(int) - np.asarray(expected)).mean() < 6


def test_a_huge_photograph_is_decoded_at_a_reduced_size(tmp_path, monkeypatch):
    save(tmp_path / "images", "a.jpg", picture((1600, 1200)))
    save(tmp_path / "images", "b.jpg", picture((50, 50)))
    sides = []
    read = FolderSource.pixels
    monkeypatch.setattr(
        FolderSource,
        "pixels",
        lambda source, index, *, min_side=None: sides.append(min_side) or read(source, index, min_side=min_side),
    )
    done = pack(tmp_path / "images", tmp_path / "mine", short_side=100)
    assert sides.count(100) == 1, "the large one alone"
    assert PackedSource(done.path).pixels(0).shape == (100, 133, 3)


@pytest.mark.parametrize("orientation", [1, 6])
def test_turned_photographs_are_upright_in_the_pack(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    for side, name in ((40, "small.jpg"), (400, "large.jpg")):
        save(tmp_path / "images", name, picture((2 * side, side)), exif=exif, quality=95)
    packed = PackedSource(pack(tmp_path / "images", tmp_path / "mine", short_side=50).path)
    expected = {1: [(50, 100, 3), (40, 80, 3)], 6: [(100, 50, 3), (80, 40, 3)]}[orientation]
    assert [packed.pixels(index).shape for index in (0, 1)] == expected
    assert packed.shapes(np.arange(2)).tolist() == [list(shape[:2]) for shape in expected]


def test_other_kinds_become_jpeg_of_the_quality_asked_for(tmp_path):
    for name in ("a.png", "b.webp", "c.bmp"):
        save(tmp_path / "images", name, picture((64, 48)))
    sizes = []
    for quality in (50, 99):
        packed = PackedSource(pack(tmp_path / "images", tmp_path / str(quality), quality=quality).path)
        for index in range(3):
            assert Image.open(io.BytesIO(packed.record(index))).format == "JPEG"
            assert np.abs(packed.pixels(index).astype(int) - np.asarray(picture((64, 48)))).mean() < 8
        sizes.append(packed.meta.data_bytes)
    assert sizes[0] < sizes[1] / 2
    raw = PackedSource(pack(tmp_path / "images", tmp_path / "raw", format="raw").path)
    np.testing.assert_array_equal(raw.pixels(0), np.asarray(picture((64, 48))))
