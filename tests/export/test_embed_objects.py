"""From Python: features as an array, of runs, loaded backbones and modules, for whatever holds images."""

from __future__ import annotations

import json
import tempfile

import numpy as np
import pytest
import torch
from PIL import Image

import moco
from moco.data.folder_lock import locked
from moco.errors import ArchitectureError, ConfigError, RunError
from moco.normalization import IMAGENET
from tests.export.test_embed import embed


def test_runs_loaded_backbones_and_modules_are_taken(run, photos):
    expected = moco.embed(run, photos, out=None, device="cpu", quiet=True).features
    loaded, module = moco.load(run), moco.load(run).backbone.train()
    preprocessing = moco.Preprocessing(16, *IMAGENET)
    for given, options in ((moco.Run(run), {}), (loaded, {}), (module, {"preprocessing": preprocessing})):
        got = moco.embed(given, photos, out=None, device="cpu", quiet=True, **options).features
        np.testing.assert_array_equal(got, expected)
    assert module.training, "what is handed in stays as it was"
    with pytest.raises(ConfigError, match="preprocessing"):
        moco.embed(module, photos, out=None, quiet=True)
    with pytest.raises(ConfigError, match="int"):
        moco.embed(7, photos, out=None, quiet=True)
    with pytest.raises(ArchitectureError, match="features"):
        moco.embed(torch.nn.Flatten(0), photos, out=None, quiet=True, preprocessing=preprocessing)


def test_users_own_images_are_taken(run, photos):
    files = sorted(photos.rglob("*.jpg"))[:5]
    model = moco.load(run)
    with torch.inference_mode():
        expected = torch.stack([model(model.preprocess(file)[None])[0] for file in files]).numpy()
    images = [Image.open(file) for file in files]
    for data in (files, images):
        result = moco.embed(run, data, out=None, device="cpu", quiet=True)
        np.testing.assert_allclose(result.features, expected, rtol=1e-4, atol=1e-5)


def test_large_files_are_read_as_the_network_sees_them(run, tmp_path):
    folder = tmp_path / "large"
    folder.mkdir()
    coarse = np.random.default_rng(3).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    for number, shape in enumerate([(171, 133), (131, 157)]):
        noise = Image.fromarray(coarse).resize(shape, Image.Resampling.NEAREST)
        noise.save(folder / f"{number}.jpg", quality=95)
    model = moco.load(run)
    with torch.inference_mode():
        opened = [Image.open(file).convert("RGB") for file in sorted(folder.iterdir())]
        expected = torch.stack([model(model.preprocess(image)[None])[0] for image in opened]).numpy()
    result = moco.embed(run, folder, out=None, device="cpu", quiet=True)
    np.testing.assert_allclose(result.features, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_without_a_file_the_features_are_in_memory(run, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "mkdtemp", lambda *_, **__: pytest.fail("a temporary folder, whose disk may be full"))
    before = sorted(tmp_path.rglob("*"))
    result = moco.embed(run, photos, out=None, batch_size=5, device="cpu", quiet=True, workers=1)
    assert sorted(tmp_path.rglob("*")) == before
    assert result.path is None
    stored = embed(run, photos, tmp_path / "out.npz")
    np.testing.assert_array_equal(result.features, stored.features)
    assert result.paths == stored.paths
    assert json.loads(json.dumps(result.as_dict()))["path"] is None


def test_what_a_call_left_that_was_killed_while_it_removed_its_parts_is_removed_by_the_next(run, photos, tmp_path):
    embed(run, photos, tmp_path / "out.npz")
    parts = tmp_path / "out.npz.parts"
    parts.mkdir()
    for name in ("features.f32", ".lock"):
        (parts / name).touch()
    with pytest.raises(RunError, match="is there already"):
        embed(run, photos, tmp_path / "out.npz")
    assert not parts.exists()
    parts.mkdir()
    with locked(parts, "moco embed"), pytest.raises(RunError, match="is there already"):
        embed(run, photos, tmp_path / "out.npz")
    assert parts.exists(), "another call, with --overwrite, is at work in it"
