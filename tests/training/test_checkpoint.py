import os

import pytest
import torch

from moco.errors import RunError
from moco.training import checkpoint


def test_what_was_saved_comes_back(tmp_path):
    checkpoint.save_atomically({"model": {"w": torch.arange(3)}, "step": 7}, tmp_path / "last.pt")
    state = checkpoint.load(tmp_path / "last.pt")
    assert state["step"] == 7
    assert torch.equal(state["model"]["w"], torch.arange(3))


def test_a_full_disk_leaves_the_old_checkpoint_and_no_partial_file(tmp_path, monkeypatch):
    path = tmp_path / "last.pt"
    checkpoint.save_atomically({"step": 1}, path)

    def no_space(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(RunError, match=r"No space left.*last\.pt is as it was"):
        checkpoint.save_atomically({"step": 2}, path)
    assert checkpoint.load(path)["step"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04 cut"])
def test_a_damaged_checkpoint_is_named(tmp_path, content):
    path = tmp_path / "last.pt"
    path.write_bytes(content)
    with pytest.raises(RunError, match="not a readable checkpoint"):
        checkpoint.load(path)


def test_a_cut_checkpoint_is_named(tmp_path):
    path = tmp_path / "last.pt"
    checkpoint.save_atomically({"w": torch.randn(1000)}, path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(RunError, match="not a readable checkpoint"):
        checkpoint.load(path)


class Evil:
    def __reduce__(self):
        return (os.mkdir, ("evil",))


def test_loading_runs_no_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"format": 1, "x": Evil()}, tmp_path / "last.pt")
    with pytest.raises(RunError):
        checkpoint.load(tmp_path / "last.pt")
    assert not (tmp_path / "evil").exists()


def test_a_foreign_file_is_refused(tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "last.pt")
    with pytest.raises(RunError, match="not a checkpoint of this version"):
        checkpoint.load(tmp_path / "last.pt")


@pytest.mark.parametrize("second_names", [True, False], ids=["hard links", "no hard links"])
def test_the_newest_checkpoint_has_its_name_at_every_moment_and_two_are_kept(tmp_path, monkeypatch, second_names):
    path, deeds, there = tmp_path / "last.pt", [], []

    def watched(name, deed):
        def does(*arguments, **options):
            deeds.append(name)
            result = deed(*arguments, **options)
            there.append(path.is_file())
            return result

        return does

    def refused(*_):
        raise OSError(95, "Operation not supported")

    for name in ("replace", "unlink", "link"):
        monkeypatch.setattr(os, name, watched(name, getattr(os, name)))
    if not second_names:
        monkeypatch.setattr(os, "link", refused)
    checkpoint.save_atomically({"step": 0}, path, keep=2)
    for step in range(1, 4):
        if step == 2 and second_names:  # killed between its last two deeds: both names are of one file
            path.with_name("last-1.pt").unlink()
            os.link(path, path.with_name("last-1.pt"))
        checkpoint.save_atomically({"step": step}, path, keep=2)
        names = sorted(file.name for file in tmp_path.iterdir())
        assert names == ["last-1.pt", "last.pt"]
        assert [checkpoint.load(tmp_path / name)["step"] for name in names] == [step - 1, step]
    assert "replace" in deeds
    assert all(there) is second_names
