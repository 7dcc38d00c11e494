"""Images for evaluation: which can be read, how they are cut, which leak, which classes a CSV gives them."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from moco.data.arrays import ArraySource
from moco.data.cuts import batches_in_pass, centre_cut, fixed_batches, paper_test_cut, random_batches
from moco.data.folder import FolderSource
from moco.data.labels import is_multilabel, read_labels, unmatched_paths
from moco.data.leakage import shared_images
from moco.data.multilabel import read_multilabels
from moco.data.readable import ReadableImages
from moco.data.skipped import SkippedFiles
from moco.errors import DataError


def readable(source, **options) -> ReadableImages:
    options = {"min_side": 8, "skipped": SkippedFiles(), **options}
    return ReadableImages(source, np.arange(len(source)), **options)


def noise(count: int, height: int = 20, width: int = 30, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("memory", [0, 4000, 2**20])
def test_images_are_the_same_whatever_fits_into_memory(photos, memory):
    source = FolderSource(photos)
    images = readable(source, memory_bytes=memory)
    assert len(images) == 24
    for position in (0, 11, 23):
        assert np.array_equal(np.asarray(images.image(position)), np.asarray(source.image(position, min_side=8)))
    assert images.sizes[3].tolist() == list(np.asarray(source.image(3, min_side=8)).shape[:2])


def test_damaged_files_are_left_out_and_named(photos):
    broken = sorted(photos.rglob("*.jpg"))[4]
    broken.write_bytes(b"not a jpeg")
    skipped = SkippedFiles()
    images = readable(FolderSource(photos), skipped=skipped)
    assert len(images) == 23
    assert 4 not in images.indices
    assert skipped.count == 1
    part = images.subset(np.array([22, 0]))
    assert part.indices.tolist() == [23, 0]
    for path in photos.rglob("*.jpg"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match="none of 24 images"):
        readable(FolderSource(photos))


def test_fixed_batches_keep_the_order(photos):
    images = readable(FolderSource(photos))
    batches = list(fixed_batches(images, lambda image: centre_cut(image, 8), batch_size=10))
    assert [len(batch) for batch in batches] == [10, 10, 4]
    assert np.array_equal(np.concatenate(batches)[13], centre_cut(images.image(13), 8))


def test_a_pass_shows_every_image_once_and_follows_from_seed_and_epoch():
    images = readable(ArraySource(noise(23)))

    def one(seed, epoch):
        pairs = list(random_batches(images, size=8, scale=(0.2, 1.0), batch_size=5, seed=seed, epoch=epoch))
        return np.concatenate([pixels for pixels, _ in pairs]), np.concatenate([at for _, at in pairs])

    pixels, positions = one(0, 0)
    assert sorted(positions) == list(range(23))
    assert np.array_equal(one(0, 0)[0], pixels)
    assert not np.array_equal(one(0, 1)[1], positions)
    assert not np.array_equal(one(1, 0)[1], positions)


@pytest.mark.parametrize("count", [1, 2, 5, 6, 7, 10, 11])
def test_no_batch_holds_a_single_image_unless_there_is_only_one(count):
    images = readable(ArraySource(noise(count)))
    sizes = [len(at) for _, at in random_batches(images, size=8, scale=(0.2, 1), batch_size=5, seed=0, epoch=0)]
    assert sum(sizes) == count
    assert count == 1 or min(sizes) > 1
    assert len(sizes) == batches_in_pass(count, 5)


@pytest.mark.parametrize("shape", [(40, 60), (57, 33), (200, 100)])
def test_the_papers_test_crop_is_torchvisions(shape):
    transforms = pytest.importorskip("torchvision.transforms")
    image = Image.fromarray(noise(1, *shape)[0])
    expected = transforms.Compose([transforms.Resize(round(32 * 256 / 224)), transforms.CenterCrop(32)])(image)
    assert np.array_equal(paper_test_cut(image, 32), np.asarray(expected))


def test_copies_of_train_images_are_found_in_folders_by_their_bytes(photos, tmp_path):
    test = tmp_path / "test"
    shutil.copytree(photos, test)
    for number, path in enumerate(sorted(test.rglob("*.jpg"))):
        if number >= 2:
            path.write_bytes(path.read_bytes() + bytes([number]))  # the same picture in another file is no copy
    (test / "cats" / "renamed.jpg").write_bytes(sorted(photos.rglob("*.jpg"))[20].read_bytes())
    pairs = shared_images(readable(FolderSource(photos)), readable(FolderSource(test)))
    assert len(pairs) == 3
    assert "cats/renamed.jpg" in {name for name, _ in pairs}
    assert all((photos / train).read_bytes() == (test / name).read_bytes() for name, train in pairs)


def test_copies_are_found_in_arrays_by_their_pixels():
    train, test = noise(10), noise(4, seed=1)
    test[2] = train[7]
    assert shared_images(readable(ArraySource(train)), readable(ArraySource(test))) == [("array[2]", "array[7]")]
    train[3] = train[9] = train[7]
    assert shared_images(readable(ArraySource(train)), readable(ArraySource(test))) == [("array[2]", "array[3]")]


def test_images_of_other_shapes_are_no_copies_though_their_bytes_are_the_same():
    wide, high = noise(3, height=10, width=20), noise(3, height=10, width=20).reshape(3, 20, 10, 3)
    assert wide.tobytes() == high.tobytes()
    assert shared_images(readable(ArraySource(wide)), readable(ArraySource(high))) == []


def test_several_labels_of_an_image_from_one_file(photos):
    source = FolderSource(photos)
    names = [source.item_name(i) for i in range(24)]
    csv = photos / "many.csv"
    csv.write_text(f"path,labels\n{names[0]},red|round\n{names[1]},\n{names[2]},red\n{names[2]},big\n")
    assert is_multilabel(csv)
    (targets,), classes = read_multilabels(csv, [source])
    assert classes == ("big", "red", "round")
    assert targets[:3].tolist() == [[0, 1, 1], [0, 0, 0], [1, 1, 0]]
    assert np.isnan(targets[3:]).all()
    with pytest.raises(DataError, match="no label column"):
        read_labels(csv, source)
    csv.write_text("path,label\na,b\n")
    assert not is_multilabel(csv)


def test_paths_of_a_csv_without_an_image_are_listed(photos):
    source = FolderSource(photos)
    csv = photos / "labels.csv"
    csv.write_text(f"path,label\n{source.item_name(0)},a\ngone.jpg,b\n")
    assert unmatched_paths(csv, [source]) == ["gone.jpg"]


def test_random_crops_keep_to_the_scale():
    picture = np.zeros((1, 64, 64, 3), np.uint8)
    picture[0, :, :, 0] = np.arange(64) * 4  # the red channel is the column
    images = readable(ArraySource(np.repeat(picture, 200, axis=0)))
    (pixels, _), *_ = random_batches(images, size=16, scale=(0.9, 1.0), batch_size=200, seed=0, epoch=0)
    spans = np.abs(pixels[:, 8, 0, 0].astype(int) - pixels[:, 8, -1, 0])
    assert spans.min() > 4 * 64 * 0.9 * 0.75, "at least 0.9 of the area at a ratio of 3/4"
    mirrored = pixels[:, 8, 0, 0] > pixels[:, 8, -1, 0]
    assert 0.35 < mirrored.mean() < 0.65
    assert torch.is_tensor(torch.from_numpy(pixels))
