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
