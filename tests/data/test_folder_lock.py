"""A lock holds while its file is open, and only at its place."""

from __future__ import annotations

import pytest

from moco.data.folder_lock import clear_lock, locked, unlock
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


def test_what_a_killed_process_left_is_removed_and_what_is_held_stays(tmp_path):
    (tmp_path / ".lock").touch()
    clear_lock(tmp_path)
    assert list(tmp_path.iterdir()) == []
    lock = locked(tmp_path, "run")
    clear_lock(tmp_path)
    assert (tmp_path / ".lock").is_file() or not pytest.importorskip("fcntl")
    unlock(tmp_path, lock)
    assert list(tmp_path.iterdir()) == []


def test_the_file_goes_while_the_lock_is_held(tmp_path, monkeypatch):
    """Whoever locks in between would lose their own."""
    pytest.importorskip("fcntl")
    lock, unlink = locked(tmp_path, "run"), type(tmp_path).unlink

    def late(path, missing_ok=False):
        with pytest.raises(RunError, match="in use"):
            locked(tmp_path, "run", attempts=1)
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(type(tmp_path), "unlink", late)
    unlock(tmp_path, lock)
