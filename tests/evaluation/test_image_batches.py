"""The one loader: every readable image once and in order, or passes of random crops, whatever the workers."""

from __future__ import annotations

import functools
import multiprocessing
import time

import numpy as np
import pytest
import torch
from PIL import Image

from moco.data.arrays import ArraySource
from moco.data.folder import FolderSource
from moco.data.image_batches import PassOrder, crop_passes, image_batches
from moco.data.preprocess import centre_pixels
from moco.data.skipped import SkippedFiles
from moco.errors import DataError
from moco.evaluation.images import LabelledImages, paper_test_crop

square = functools.partial(centre_pixels, size=16)


def noise(count: int, height: int = 20, width: int = 30, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def loaded(source, *, batch=5, **options):
    return list(image_batches(source, square, batch_size=batch, **{"skipped": SkippedFiles(), **options}))


def damage(photos):
    for number in ("04", "07"):
        next(photos.rglob(f"{number}.jpg")).write_bytes(b"no image")
    source = FolderSource(photos)
    return source, [i for i in range(24) if source.item_name(i).endswith(("04.jpg", "07.jpg"))]


@pytest.mark.parametrize(("batch", "workers"), [(1, 0), (5, 2), (24, 1), (100, None), (5, None)])
def test_all_images_come_once_in_order(photos, batch, workers):
    source = FolderSource(photos)
    got = loaded(source, batch=batch, workers=workers)
    assert [part.stop for part in got] == [*range(batch, 24, batch), 24]
    np.testing.assert_array_equal(np.concatenate([part.indices for part in got]), np.arange(24))
    expected = np.stack([square(source.pixels(i)) for i in range(24)])
    np.testing.assert_array_equal(np.concatenate([part.pixels for part in got]), expected)


def test_a_later_start_gives_the_rest(photos):
    source = FolderSource(photos)
    whole, rest = loaded(source), loaded(source, first=10)
    assert [part.stop for part in rest] == [15, 20, 24]
    for one, other in zip(whole[2:], rest, strict=True):
        np.testing.assert_array_equal(one.pixels, other.pixels)
    assert loaded(source, first=24) == []


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("batch", [1, 5])
def test_damaged_images_are_left_out_and_listed(photos, workers, batch):
    source, damaged = damage(photos)
    skipped = SkippedFiles()
    got = loaded(source, skipped=skipped, workers=workers, batch=batch)
    assert np.concatenate([part.indices for part in got]).tolist() == [i for i in range(24) if i not in damaged]
    assert all(len(part.indices) == len(part.pixels) for part in got)
    assert [item for item, _ in skipped.items()] == sorted(source.item_name(i) for i in damaged)


def test_closing_early_ends_the_workers(photos):
    batches = image_batches(FolderSource(photos), square, batch_size=5, skipped=SkippedFiles(), workers=2)
    next(batches)
    assert multiprocessing.active_children()
    batches.close()
    deadline = time.monotonic() + 10
    while multiprocessing.active_children() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not multiprocessing.active_children()


class Broken(ArraySource):
    def pixels(self, index, *, min_side=None):
        raise MemoryError("no room")


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_that_is_no_damage_reaches_the_caller(workers):
    with pytest.raises(MemoryError):
        loaded(Broken(noise(9)), workers=workers)


def passes(source, *, seed=0, batch=5, crop_min=0.2, size=8, epochs=(0,)):
    order = PassOrder(len(source), batch_size=batch, seed=seed)
    one_pass = crop_passes(source, order, size=size, crop_min=crop_min, skipped=SkippedFiles())
    return [[(at, pixels.copy()) for at, pixels in one_pass(epoch)] for epoch in epochs], order


def test_a_pass_shows_every_image_once_and_follows_from_seed_and_epoch():
    source = ArraySource(noise(23))
    (zero, one, again), _ = passes(source, epochs=(0, 1, 0))
    positions, crops = (np.concatenate(part) for part in zip(*zero, strict=True))
    assert sorted(positions) == list(range(23))
    np.testing.assert_array_equal(np.concatenate([pixels for _, pixels in again]), crops)
    for other in (one, passes(source, seed=1)[0][0]):
        assert not np.array_equal(np.concatenate([at for at, _ in other]), positions)


def test_crops_do_not_depend_on_workers_or_batches(photos):
    by_image = []
    for batch in (5, 24):  # with workers and without
        ((one,), _) = passes(FolderSource(photos), batch=batch)
        by_image.append({int(i): crop for at, pixels in one for i, crop in zip(at, pixels, strict=True)})
    assert all(np.array_equal(by_image[0][i], by_image[1][i]) for i in range(24))


@pytest.mark.parametrize("count", [1, 2, 5, 6, 7, 10, 11])
def test_no_batch_holds_a_single_image_unless_there_is_only_one(count):
    ((one,), order) = passes(ArraySource(noise(count)))
    sizes = [len(at) for at, _ in one]
    assert sum(sizes) == count
    assert count == 1 or min(sizes) > 1
    assert len(sizes) == len(order)


def test_random_crops_keep_to_the_scale_and_half_of_them_are_mirrored():
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[:, :, 0] = np.arange(64) * 4  # the red channel is the column
    ((((_, pixels),),), _) = passes(ArraySource(np.stack([picture] * 200)), batch=200, crop_min=0.9, size=16)
    spans = np.abs(pixels[:, 8, 0, 0].astype(int) - pixels[:, 8, -1, 0])
    assert spans.min() > 4 * 64 * 0.9 * 0.75, "at least 0.9 of the area at a ratio of 3/4"
    assert 0.35 < (pixels[:, 8, 0, 0] > pixels[:, 8, -1, 0]).mean() < 0.65


@pytest.mark.parametrize("shape", [(40, 60), (57, 33), (200, 100)])
def test_the_papers_test_crop_is_torchvisions(shape):
    transforms = pytest.importorskip("torchvision.transforms")
    pixels = noise(1, *shape)[0]
    expected = transforms.Compose([transforms.Resize(round(32 * 256 / 224)), transforms.CenterCrop(32)])
    assert np.array_equal(paper_test_crop(pixels, size=32), np.asarray(expected(Image.fromarray(pixels))))


@pytest.mark.parametrize("memory", [0, 2**30])
def test_squares_are_the_same_whether_they_stay_in_memory_or_not(photos, monkeypatch, memory):
    monkeypatch.setattr("moco.evaluation.images.MEMORY_BYTES", memory)
    source, damaged = damage(photos)
    skipped, order = SkippedFiles(), np.arange(23, -1, -1)
    images = LabelledImages.read(source, order, np.arange(24), size=16, skipped=skipped)
    assert images.targets.tolist() == [i for i in order if i not in damaged]
    assert skipped.count == 2
    expected = [square(source.pixels(int(i))) for i in images.targets]
    np.testing.assert_array_equal(np.concatenate(list(images.centres())), expected)
    part = images.subset(np.array([21, 0]))
    np.testing.assert_array_equal(np.concatenate(list(part.centres())), [expected[21], expected[0]])
    assert part.targets.tolist() == images.targets[torch.tensor([21, 0])].tolist()


def test_no_readable_image_is_refused(photos):
    for path in photos.rglob("*.jpg"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match="none of 24 images"):
        LabelledImages.read(FolderSource(photos), np.arange(24), np.arange(24), size=8, skipped=SkippedFiles())
