"""Files appear whole or not at all, as any new file would; one line says where the file system refuses."""

from __future__ import annotations

import os
import resource
import signal
import stat
from contextlib import contextmanager

import pytest
import torch

from moco.atomic import replaced, write_json, write_text
from moco.errors import RunError
from moco.export.backbone import write_backbone, write_tensors

METADATA = {f"name {number}": f"text {number}" for number in range(8)}


@contextmanager
def largest_file(size):
    """Inside, no file can grow beyond `size` bytes, as on a disk that is full."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("mask", [0o022, 0o007])
def test_files_have_the_permissions_of_any_new_file(tmp_path, mask):
    before = os.umask(mask)
    try:
        write_text(tmp_path / "a", "x")
        write_backbone(torch.nn.Linear(2, 2), tmp_path / "b.safetensors", metadata=METADATA)
    finally:
        os.umask(before)
    assert {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()} == {0o666 & ~mask}


def test_equal_tensors_give_equal_bytes_and_are_read_back(tmp_path):
    from safetensors import safe_open

    tensors = {"b": torch.arange(3), "a": torch.ones(2, 2), "odd length": torch.zeros(1, dtype=torch.uint8)}
    files = [tmp_path / f"{number}.safetensors" for number in range(6)]
    for file in files:
        write_tensors(tensors, file, metadata=dict(reversed(METADATA.items())))
    assert len({file.read_bytes() for file in files}) == 1
    with safe_open(files[0], "pt") as opened:
        assert opened.metadata() == METADATA
        assert all(torch.equal(opened.get_tensor(name), tensor) for name, tensor in tensors.items())


def test_a_full_disk_leaves_the_earlier_file_and_says_so(tmp_path):
    file = tmp_path / "summary.json"
    write_json(file, {"a": 1})
    with (
        largest_file(100),
        pytest.raises(RunError, match=r"summary.json: File too large; the earlier one is as it was$"),
    ):
        write_json(file, {"a": "x" * 1000})
    assert (file.read_text(), list(tmp_path.iterdir())) == ('{\n  "a": 1\n}\n', [file])


def test_where_nothing_was_there_nothing_is_left(tmp_path):
    with largest_file(100), pytest.raises(RunError, match="nothing was written there$"):
        write_backbone(torch.nn.Linear(9, 9), tmp_path / "b.safetensors", metadata={})
    with pytest.raises(RunError, match="No such file or directory"):
        write_text(tmp_path / "no folder" / "a", "x")
    assert list(tmp_path.iterdir()) == []


def test_pytorchs_own_word_for_a_full_disk_is_replaced(tmp_path):
    with (
        largest_file(100),
        pytest.raises(RunError, match="the disk took no more|too large"),
        replaced(tmp_path / "a") as a,
    ):
        torch.save({"a": torch.zeros(1000)}, a)


def test_an_error_of_the_writer_itself_stays_what_it_is(tmp_path):
    def write() -> None:
        with replaced(tmp_path / "a") as partial:
            partial.write_text("half")
            raise RuntimeError("ours")

    with pytest.raises(RuntimeError, match="ours"):
        write()
    assert list(tmp_path.iterdir()) == []
