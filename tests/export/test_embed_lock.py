"""Who writes a file of features: one process at a time, which lets go whatever happens."""

from __future__ import annotations

import pytest

from moco.commands import embed as command
from moco.errors import DataError, RunError
from moco.export import embeddings
from moco.lock import locked
from tests.export.models import trained, written
from tests.export.test_embed import embed


@pytest.fixture
def run(tmp_path):
    return written(tmp_path / "run", trained())


def test_two_processes_do_not_write_one_file(run, photos, tmp_path):
    out = tmp_path / "out.npz"
    parts = tmp_path / "out.npz.parts"
    parts.mkdir()
    with locked(parts, "other"), pytest.raises(RunError, match=r"out\.npz\.parts is in use by another moco embed"):
        embed(run, photos, out)
    assert not out.exists()
    embed(run, photos, out)
    assert not parts.exists()


def test_a_file_that_another_process_has_just_made_is_kept(run, photos, tmp_path, monkeypatch):
    out = tmp_path / "out.npz"
    monkeypatch.setattr(command, "_check", lambda path, *_: path.write_bytes(b"just made"))
    with pytest.raises(RunError, match="is there already"):
        embed(run, photos, out)
    assert out.read_bytes() == b"just made"
    assert not (tmp_path / "out.npz.parts").exists()
    assert embed(run, photos, out, overwrite=True).images == 24


def test_an_interrupted_call_lets_go_of_the_folder(run, photos, tmp_path, monkeypatch):
    computed = embeddings.feature_batches

    def stop(*arguments, **options):
        yield next(computed(*arguments, **options))
        raise KeyboardInterrupt

    monkeypatch.setattr(embeddings, "COMMIT_SECONDS", 0.0)
    monkeypatch.setattr(embeddings, "feature_batches", stop)
    with pytest.raises(KeyboardInterrupt) as held:
        embed(run, photos, tmp_path / "out.npz")
    monkeypatch.setattr(embeddings, "feature_batches", computed)
    with pytest.raises(RunError, match="other batch_size") as also_held:
        embed(run, photos, tmp_path / "out.npz", batch_size=6)
    assert embed(run, photos, tmp_path / "out.npz").images == 24
    assert held.value is not also_held.value, "the tracebacks, and what they hold, are still there"


def test_images_that_were_repaired_are_looked_at_again(run, photos, tmp_path):
    whole = {path: path.read_bytes() for path in photos.rglob("*.jpg")}
    for path in whole:
        path.write_bytes(b"no image")
    with pytest.raises(DataError, match="none of 24 images can be read"):
        embed(run, photos, tmp_path / "out.npz")
    for path, content in whole.items():
        path.write_bytes(content)
    assert embed(run, photos, tmp_path / "out.npz").images == 24
