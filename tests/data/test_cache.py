"""Decoded images that fit stay in memory: the same pixels, decoded once, whichever process asks; the budget decides."""

import multiprocessing

import numpy as np
import pytest
from PIL import Image

from moco.data.arrays import ArraySource
from moco.data.cache import SAMPLE, keep_decoded
from moco.data.decode import DamagedImage
from moco.data.folder import FolderSource
from moco.data.skipped import SkippedFiles
from tests.data.examples import EVERYTHING, Reddish, loader, same, shared_counts, take

MIB = 2**20


class Counted(FolderSource):
    """Counts how often each image is decoded and its header read, in all processes."""

    def __init__(self, root):
        super().__init__(root)
        self.decodes, self.headers = shared_counts(len(self)), shared_counts(len(self))

    def pixels(self, index, *, min_side=None):
        self.decodes[self._place(index)] += 1
        return super().pixels(index, min_side=min_side)

    def shapes(self, indices, *, min_side=None):
        self.headers[indices] += 1
        return super().shapes(indices, min_side=min_side)


@pytest.fixture
def squares(tmp_path):
    """30 images of 20 x 24, of which number 4 is no image."""
    generator = np.random.default_rng(0)
    (tmp_path / "squares").mkdir()
    for number in range(30):
        pixels = generator.integers(0, 256, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "squares" / f"{number:02d}.png")
    (tmp_path / "squares" / "04.png").write_text("no image")
    return tmp_path / "squares"


def kept(source, indices=None, **options):
    indices = np.arange(len(source)) if indices is None else np.asarray(indices)
    return keep_decoded(source, indices, **{"budget": MIB, **options})[0]


@pytest.mark.parametrize("folder", ["photos", "squares"])
def test_views_are_the_same_with_and_without_memory(folder, request):
    """Of differing sizes and with a damaged one, bit for bit, in workers and when the run is resumed."""
    folder = request.getfixturevalue(folder)
    expected = take(loader(FolderSource(folder), recipe=EVERYTHING), 14)
    for workers in (0, 2):
        skipped = SkippedFiles()
        one = loader(kept(FolderSource(folder)), recipe=EVERYTHING, workers=workers, skipped=skipped)
        assert same(take(one, 14), expected)
        assert same(take(one, 5, first_step=9), expected[9:])
        assert [item for item, _ in skipped.items()] == (["04.png"] if folder.name == "squares" else [])


@pytest.mark.parametrize("workers", [0, 2])
def test_the_second_epoch_decodes_nothing(photos, workers):
    """What one worker has decoded, the others and the next ones find."""
    source = Counted(photos)
    one = loader(kept(source), workers=workers)
    take(one, 6)  # workers may have begun the next epoch
    assert source.decodes.min() >= 1
    once = source.decodes.copy()
    take(one, 12)
    assert source.decodes.max() <= 2, "two workers may meet at an image once"
    take(one, 12)
    assert np.all(source.decodes <= np.maximum(once, 2))
    assert workers or source.decodes.max() == 1


def test_a_forked_process_gives_what_it_decodes_to_all():
    original = Sized(9)
    source = kept(original)

    def decode():
        for index in range(1, 9):
            source.pixels(index)

    child = multiprocessing.get_context("fork").Process(target=decode)
    child.start()
    child.join()
    for index in range(9):
        np.testing.assert_array_equal(source.pixels(index), Reddish(9).pixels(index))
    assert original.visits.tolist() == [1] * 9


class Sized(Reddish):
    """Tells sizes without decoding; those of `lies` wrongly."""

    def __init__(self, count, *, lies=(), **options):
        super().__init__(count, **options)
        self.lies = lies

    def shapes(self, indices, *, min_side=None):
        return np.array([(20 + i % 3 + (i in self.lies), 25 - i % 4) for i in np.asarray(indices).tolist()], np.int32)


def test_images_that_are_not_in_use_are_passed_through():
    original = Sized(12)
    source = kept(original, indices=[3, 5, 8])
    for _ in range(3):
        for index in range(12):
            np.testing.assert_array_equal(source.pixels(index), Reddish(12).pixels(index))
    assert original.visits.tolist() == [1 if index in (3, 5, 8) else 3 for index in range(12)]
    assert source.nbytes == sum(original.pixels(index).nbytes for index in (3, 5, 8))


@pytest.mark.parametrize("lies", [False, True])
def test_images_that_are_damaged_or_not_what_their_first_bytes_said_are_read_at_each_visit(lies):
    original = Sized(6, lies={2}) if lies else Sized(6, damaged={2})
    source = kept(original)
    for visit in (1, 2, 3):
        if lies:
            np.testing.assert_array_equal(source.pixels(2), Reddish(6).pixels(2))
        else:
            with pytest.raises(DamagedImage, match="002"):
                source.pixels(2)
        assert original.visits[2] == visit
    for index in (1, 3, 1, 3):
        np.testing.assert_array_equal(source.pixels(index), Reddish(6).pixels(index))
    assert original.visits[[1, 3]].tolist() == [1, 1]


def test_parts_and_other_labels_share_the_memory(photos):
    source = Counted(photos)
    whole = kept(source)
    assert (whole.name, whole.class_names) == (source.name, source.class_names)
    np.testing.assert_array_equal(whole.labels, source.labels)
    part = whole.subset([7, 2, 9]).with_labels(np.array([1, 0, -1]), ("x", "y"))
    assert (len(part), part.labels.tolist(), part.class_names) == (3, [1, 0, -1], ("x", "y"))
    for index, place in enumerate([7, 2, 9]):
        assert part.item_name(index) == source.item_name(place)
        np.testing.assert_array_equal(part[index], whole.pixels(place))
    assert source.decodes.sum() == 3


def test_a_budget_that_is_too_small_says_so_and_keeps_nothing(photos):
    source = FolderSource(photos)
    total = sum(source.pixels(index).nbytes for index in range(len(source)))
    whole, line = keep_decoded(source, np.arange(24), budget=total)
    assert (whole.nbytes, "\n" in line) == (total, False)
    for budget in (total - 1, 0):
        same_source, line = keep_decoded(source, np.arange(24), budget=budget)
        assert same_source is source
        assert "--cache-gib" in line
        assert "\n" not in line


def test_a_set_far_too_large_is_not_read_through(tmp_path):
    names = [f"{number:04d}.png" for number in range(SAMPLE * 4)]
    Image.new("RGB", (64, 64)).save(tmp_path / names[0])
    for name in names[1:]:
        (tmp_path / name).hardlink_to(tmp_path / names[0])
    source = Counted(tmp_path)
    assert kept(source) is source
    assert 0 < source.headers.sum() <= SAMPLE
    assert kept(source, budget=100 * MIB) is not source
    assert source.headers.min() == 1


def test_nothing_is_kept_of_what_is_decoded_already_or_tells_no_sizes():
    array = ArraySource(np.zeros((4, 8, 8, 3), dtype=np.uint8))
    for source in (array, Reddish(4)):
        same_source, line = keep_decoded(source, np.arange(4), budget=MIB)
        assert same_source is source
        assert source.name in line


def test_reduced_decoding_is_what_stays(tmp_path):
    """A photograph of 800 x 600 for views of 12 px is kept at an eighth of its size."""
    Image.new("RGB", (800, 600), "teal").save(tmp_path / "a.jpg")
    Image.new("RGB", (640, 600), "teal").save(tmp_path / "b.jpg")
    source = kept(FolderSource(tmp_path), min_side=27)
    assert source.pixels(0).shape == source.pixels(0).shape == (75, 100, 3)
    assert source.nbytes == 3 * 75 * (100 + 80)
