"""A lock holds while its file is open, and only at its place."""

from __future__ import annotations

import pytest

from moco.data.folder_lock import locked
from moco.errors import RunError


def test_one_at_a_time(tmp_path):
    with locked(tmp_path, "run"), pytest.raises(RunError, match="in use by another run: wait"):
        locked(tmp_path, "run: wait")
    locked(tmp_path, "run").close()


def test_a_lock_on_a_file_that_is_gone_is_none(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")
    whole = fcntl.flock

    def late(file, kind):
        (tmp_path / ".lock").unlink()  # by the holder, between opening and locking
        whole(file, kind)

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(RunError, match="in use"):
        locked(tmp_path, "run")
    monkeypatch.setattr(fcntl, "flock", whole)
    locked(tmp_path, "run").close()


def test_a_folder_that_is_not_there_cannot_be_used(tmp_path):
    with pytest.raises(RunError, match="cannot use .* as output folder"):
        locked(tmp_path / "nowhere", "run")
