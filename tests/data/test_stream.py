"""Every readable image comes once, in order, as evaluation sees it, and no more than a few are held."""

import threading

import numpy as np
import pytest

from moco.data.arrays import ArraySource
from moco.data.fixed import fixed_images
from moco.data.folder import FolderSource
from moco.data.skipped import SkippedFiles
from moco.data.stream import AHEAD, fixed_batches


def streamed(source, *, size=16, batch=5, **options):
    skipped = options.pop("skipped", SkippedFiles())
    return list(fixed_batches(source, image_size=size, batch_size=batch, skipped=skipped, **options))


@pytest.mark.parametrize("batch", [1, 5, 24, 100])
@pytest.mark.parametrize("workers", [1, 3, None])
def test_all_images_come_in_order_as_evaluation_sees_them(photos, batch, workers):
    source = FolderSource(photos)
    expected, _ = fixed_images(source, np.arange(24), image_size=16, skipped=SkippedFiles())
    got = streamed(source, batch=batch, workers=workers)
    assert [part.stop for part in got] == [*range(batch, 24, batch), 24]
    np.testing.assert_array_equal(np.concatenate([part.indices for part in got]), np.arange(24))
    np.testing.assert_array_equal(np.concatenate([part.pixels for part in got]), expected)


def test_a_later_start_gives_the_rest(photos):
    source = FolderSource(photos)
    whole, rest = streamed(source), streamed(source, first=10)
    assert [part.stop for part in rest] == [15, 20, 24]
    for one, other in zip(whole[2:], rest, strict=True):
        np.testing.assert_array_equal(one.pixels, other.pixels)
    assert streamed(source, first=24) == []


def test_damaged_images_are_left_out_and_noted(photos):
    for number in ("04", "07"):
        next(photos.rglob(f"{number}.jpg")).write_bytes(b"no image")
    source, skipped = FolderSource(photos), SkippedFiles()
    damaged = [i for i in range(24) if source.item_name(i).endswith(("04.jpg", "07.jpg"))]
    got = streamed(source, skipped=skipped)
    assert sorted(np.concatenate([part.indices for part in got])) == [i for i in range(24) if i not in damaged]
    assert [item for item, _ in skipped.items()] == sorted(source.item_name(i) for i in damaged)
    assert all(reason == "not an image in a known format" for _, reason in skipped.items())


@pytest.mark.parametrize("shape", [(7, 16, 16, 3), (7, 16, 16), (7, 20, 16, 3)])
def test_arrays_come_as_they_are_where_the_size_fits(shape):
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    source = ArraySource(images)
    expected, _ = fixed_images(source, np.arange(7), image_size=16, skipped=SkippedFiles())
    np.testing.assert_array_equal(np.concatenate([part.pixels for part in streamed(source)]), expected)


class Counted(ArraySource):
    """Counts the images that were asked for."""

    asked = 0

    def pixels(self, index, *, min_side=None):
        self.asked += 1
        return super().pixels(index, min_side=min_side)


def test_few_batches_are_held_and_the_threads_end():
    source = Counted(np.zeros((400, 20, 16, 3), dtype=np.uint8))
    batches = fixed_batches(source, image_size=16, batch_size=5, skipped=SkippedFiles(), workers=2)
    next(batches)
    assert 5 <= source.asked <= 5 * (AHEAD + 1)
    batches.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("moco-decode")]


def test_an_error_that_is_no_damage_reaches_the_caller():
    class Broken(ArraySource):
        def pixels(self, index, *, min_side=None):
            raise MemoryError("no room")

    with pytest.raises(MemoryError):
        streamed(Broken(np.zeros((9, 20, 16, 3), dtype=np.uint8)))
