"""Folders and arrays of real images, as they lie: photographs, microscopy, street scenes."""

from __future__ import annotations

import tarfile

import numpy as np
import pytest
import torch

import moco
from moco.data.folder import FolderSource
from tests.export.models import trained, written
from tests.real_data import SCRATCH, cifar10, imagenette, shared_file

pytestmark = pytest.mark.real_data


def unpacked(name, tmp_path):
    """Fifty images of an archive of ../shared/data, in their own folders."""
    with tarfile.open(shared_file(name)) as tar:
        images = [member for member in tar if member.name.lower().endswith((".jpg", ".png"))][:50]
        tar.extractall(tmp_path / "images", members=images, filter="data")
    return tmp_path / "images"


def embedded(data, tmp_path, **options):
    """The file that `embed` wrote, checked against single images."""
    run = written(tmp_path / "run", trained(**options))
    result = moco.embed(run, data, out=tmp_path / "out.npz", device="cpu", quiet=True)
    with np.load(result.path) as file:
        return moco.load(run), file["features"], file["paths"].tolist(), result


@pytest.mark.parametrize("name", ["imagenette", "BCCD_voc.tar.gz", "camvid_360x480_q92.tar.gz"])
def test_every_image_of_a_folder_has_its_row(tmp_path, name):
    folder = imagenette() / "val" / "n01440764" if name == "imagenette" else unpacked(name, tmp_path)
    model, features, paths, result = embedded(folder, tmp_path, image_size=48)
    assert paths == [FolderSource(folder).item_name(index) for index in range(len(paths))]
    assert (result.skipped, len(paths)) == (0, len(FolderSource(folder)))
    for row in (0, len(paths) // 2, len(paths) - 1):
        with torch.inference_mode():
            own = model(model.preprocess(folder / paths[row])[None])[0].numpy()
        np.testing.assert_allclose(features[row], own, rtol=1e-3, atol=1e-4)
    assert features.std(axis=0).max() > 0.01


def test_a_mapped_array_has_its_rows(tmp_path):
    _, _, images, _ = cifar10()
    np.save(tmp_path / "some.npy", images[:700])
    model, features, paths, _ = embedded(tmp_path / "some.npy", tmp_path, image_size=32)
    assert (paths[0], paths[-1]) == ("some.npy[0]", "some.npy[699]")
    pixels = model.preprocess.normalize(torch.from_numpy(np.array(images[690:700])).permute(0, 3, 1, 2))
    with torch.inference_mode():
        np.testing.assert_allclose(features[690:], model(pixels).numpy(), rtol=1e-3, atol=1e-4)
    assert SCRATCH.is_dir()
