"""The loader gives the two views of each step: the same for the same seed, however it is asked, and leaves nothing."""

import dataclasses
import itertools
import threading
import time
from collections import Counter

import numpy as np
import pytest
import torch
from moco.data.ahead import PREFETCH
from PIL import Image

from moco.data.arrays import ArraySource
from moco.data.decode import DamagedImage
from moco.data.loader import ViewLoader
from moco.data.order import EpochOrder
from moco.data.skipped import SkippedFiles
from moco.data.views import IMAGENET, ViewRecipe
from moco.errors import DataError

PLAIN = ViewRecipe(  # keeps colours as they are, so that a view of a flat image tells which one it is
    crop_scale=(0.2, 1.0),
    brightness=0.0,
    contrast=0.0,
    saturation=0.0,
    hue=0.0,
    jitter_probability=0.0,
    grayscale_probability=0.0,
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
)
VIVID = dataclasses.replace(
    PLAIN,
    brightness=0.4,
    contrast=0.4,
    saturation=0.4,
    hue=0.1,
    jitter_probability=0.8,
    grayscale_probability=0.2,
    blur_probability=0.5,
    mean=IMAGENET[0],
    std=IMAGENET[1],
)


class Flat:
    """Image i is flat, of red value i; made on request, late at times, and counted."""

    name, labels, class_names = "flat", None, ()

    def __init__(self, count, *, damaged=(), error_at=None, slow=0.0):
        self.count, self.damaged, self.error_at, self.slow = count, set(damaged), error_at, slow
        self.calls, self.sides, self.lock = 0, set(), threading.Lock()

    def __len__(self):
        return self.count

    def uniform_array(self):
        return None

    def item_name(self, index):
        return f"{index:03d}.jpg"

    def image(self, index, *, min_side=None):
        with self.lock:
            self.calls += 1
            self.sides.add(min_side)
            calls = self.calls
        time.sleep(self.slow * (calls * 7 % 5))  # threads overtake one another
        if self.error_at is not None and calls >= self.error_at:
            raise RuntimeError("the disk is on fire")
        if index in self.damaged:
            raise DamagedImage(self.item_name(index), "truncated")
        generator = np.random.default_rng(index)
        pixels = generator.integers(0, 256, (20 + index % 3, 25 - index % 4, 3), dtype=np.uint8)
        pixels[..., 0] = index
        return Image.fromarray(pixels)


def array_source(count):
    pixels = np.random.default_rng(0).integers(0, 256, (count, 20, 24, 3), dtype=np.uint8)
    pixels[..., 0] = np.arange(count)[:, None, None]
    return ArraySource(pixels)


SOURCES = {"resident": array_source, "streamed": Flat}


def loader(source, *, batch=4, recipe=PLAIN, seed=3, indices=None, **options):
    indices = np.arange(len(source)) if indices is None else np.asarray(indices)
    order = EpochOrder(indices, batch_size=batch, seed=seed)
    options = {"image_size": 12, "device": torch.device("cpu"), "skipped": SkippedFiles(), **options}
    return ViewLoader(source, order, recipe, **options)


def take(source_loader, count, first_step=0):
    batches = source_loader.batches(first_step)
    try:
        return list(itertools.islice(batches, count))
    finally:
        batches.close()


def numbers(view):
    """Which images a view holds: the red values."""
    return (view[:, 0].amax((1, 2)) * 255).round().int().tolist()


def same(first, second):
    """Bitwise, over all batches and both views."""
    return all(
        torch.equal(one, two) for one, two in zip(itertools.chain(*first), itertools.chain(*second), strict=True)
    )


@pytest.fixture(autouse=True)
def no_thread_is_left():
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize("kind", SOURCES)
def test_seed_decides_every_bit_and_a_resumed_run_continues_exactly(kind):
    """Five steps make an epoch here."""
    whole = take(loader(SOURCES[kind](23), recipe=VIVID), 14)
    assert same(whole, take(loader(SOURCES[kind](23), recipe=VIVID), 14))
    for first_step in (1, 5, 8):
        assert same(whole[first_step:], take(loader(SOURCES[kind](23), recipe=VIVID), 14 - first_step, first_step))
    other = take(loader(SOURCES[kind](23), recipe=VIVID, seed=4), 14)
    assert not any(torch.equal(one[0], two[0]) for one, two in zip(whole, other, strict=True))
    assert not any(torch.equal(one[0], two[0]) for one, two in itertools.combinations(whole, 2))


@pytest.mark.parametrize("kind", SOURCES)
def test_a_loader_can_be_asked_again_and_anew(kind):
    one = loader(SOURCES[kind](23), recipe=VIVID)
    first = take(one, 7)
    assert same(take(one, 3, first_step=4), first[4:])
    assert same(take(one, 7), first)


def test_number_of_workers_does_not_change_the_views():
    expected = take(loader(Flat(23, damaged=(2, 9)), recipe=VIVID, workers=1), 8)
    for workers in (2, 5, None):
        source = Flat(23, damaged=(2, 9), slow=0.0004)
        assert same(take(loader(source, recipe=VIVID, workers=workers), 8), expected)


@pytest.mark.parametrize("kind", SOURCES)
def test_each_image_comes_once_an_epoch_and_both_views_show_it(kind):
    one = loader(SOURCES[kind](40), indices=range(5, 25))
    for epoch in range(3):
        batches = take(one, 5, first_step=5 * epoch)
        assert sorted(number for view, _ in batches for number in numbers(view)) == list(range(5, 25))
        for first, second in batches:
            assert numbers(first) == numbers(second)
            assert first.shape == second.shape == (4, 3, 12, 12)
            assert first.dtype == torch.float32
            assert (first - second).abs().amax((1, 2, 3)).min() > 0.01


@pytest.mark.parametrize("kind", SOURCES)
def test_ranks_share_out_the_batch_of_one_process(kind):
    source = SOURCES[kind](30)
    alone = [numbers(view) for view, _ in take(loader(source, batch=6), 5)]
    ranks = [take(loader(source, batch=6, rank=rank, world_size=3), 5) for rank in range(3)]
    for step, expected in enumerate(alone):
        assert [number for rank in ranks for number in numbers(rank[step][0])] == expected


@pytest.mark.parametrize("kind", SOURCES)
def test_ranks_draw_apart(kind):
    """Two ranks that hold the same picture at the same place see different crops."""
    one = np.random.default_rng(0).integers(0, 256, (1, 20, 20, 3), dtype=np.uint8)
    source = ArraySource(np.repeat(one, 4, axis=0))
    if kind == "streamed":
        source.uniform_array = lambda: None
    pair = [take(loader(source, batch=4, recipe=VIVID, rank=rank, world_size=2), 2) for rank in (0, 1)]
    both = torch.cat([view for batches in pair for step in batches for view in step]).flatten(1)
    assert torch.pdist(both).min() > 0.1


def test_damaged_images_are_replaced_and_listed_and_the_run_goes_on():
    damaged, skipped = {0, 3, 4, 11}, SkippedFiles()
    source = Flat(20, damaged=damaged)
    batches = take(loader(source, skipped=skipped), 15)
    seen = [numbers(view) for view, _ in batches]
    order = EpochOrder(np.arange(20), batch_size=4, seed=3)
    replaced = Counter()
    for step, got in enumerate(seen):
        assert got == numbers(batches[step][1])
        for wanted, found in zip(order.batch(step).tolist(), got, strict=True):
            assert found not in damaged
            assert wanted in damaged or found == wanted
            replaced[found] += wanted in damaged
    assert sum(replaced.values()) == 3 * len(damaged)
    assert len([number for number in replaced if replaced[number]]) > 4  # not always the same one
    assert [item for item, _ in skipped.items()] == [f"{number:03d}.jpg" for number in sorted(damaged)]
    assert all("truncated" in reason for _, reason in skipped.items())
    assert same(batches[6:], take(loader(Flat(20, damaged=damaged)), 9, first_step=6))


class Even(Flat):
    """All of one size, so that a cache becomes an array."""

    def image(self, index, *, min_side=None):
        return super().image(index, min_side=min_side).resize((20, 20))


@pytest.mark.parametrize("cache_bytes", [0, 2**20])
@pytest.mark.parametrize("kind", [array_source, Flat, Even])
def test_the_loader_tells_which_images_a_batch_holds(kind, cache_bytes):
    source = kind(20) if kind is array_source else kind(20, damaged={0, 3, 4, 11})
    source_loader = loader(source, cache_bytes=cache_bytes)
    batches = source_loader.batches(3)
    for _ in range(12):
        view, _second = next(batches)
        assert source_loader.indices.tolist() == numbers(view)
    batches.close()


def test_replacements_come_from_the_images_in_use():
    """Never from those that are held out."""
    for view, _ in take(loader(Flat(60, damaged=range(20, 36)), indices=range(20, 40)), 10):
        assert set(numbers(view)) <= {36, 37, 38, 39}


def test_a_folder_of_damaged_files_ends_in_one_clear_line():
    skipped = SkippedFiles()
    with pytest.raises(DataError, match="images in a row cannot be read.*check the folder") as caught:
        take(loader(Flat(8, damaged=range(8)), skipped=skipped), 1)
    assert "\n" not in str(caught.value)
    assert skipped.count >= 1


@pytest.mark.parametrize("good", [0, 1, 3])
def test_an_error_reaches_the_consumer_after_the_batches_before_it(good):
    batches = loader(Flat(20, error_at=4 * good + 2), workers=1).batches(0)
    for _ in range(good):
        next(batches)
    with pytest.raises(RuntimeError, match="the disk is on fire"):
        next(batches)
    with pytest.raises(StopIteration):
        next(batches)


def calls_when_quiet(source, at_least):
    """How many images were asked for when no more are, or when far more were than `at_least`; waits 20 s at most."""
    deadline = time.monotonic() + 20
    calls = -1
    while calls < 4 * at_least and time.monotonic() < deadline and (calls != source.calls or calls < at_least):
        calls = source.calls
        time.sleep(0.25)
    return calls


@pytest.mark.parametrize("taken", [1, 4])
def test_a_few_batches_are_decoded_ahead_and_no_more(taken):
    """PREFETCH wait, one more is finished in the producer's hands; the folder is never read as a whole."""
    source = Flat(250)
    batches = loader(source).batches(0)
    for _ in range(taken):
        next(batches)
    calls = calls_when_quiet(source, at_least=4 * (taken + PREFETCH))
    assert 4 * (taken + PREFETCH) <= calls <= 4 * (taken + PREFETCH + 1)
    batches.close()
    assert source.calls == calls


@pytest.mark.parametrize(("taken", "slow"), [(0, 0.0), (1, 0.0), (1, 0.01), (6, 0.001)])
@pytest.mark.parametrize("ending", ["close", "forget"])
def test_closing_or_forgetting_the_iterator_ends_its_threads(taken, slow, ending):
    before = set(threading.enumerate())
    batches = loader(Flat(100, slow=slow), workers=3).batches(0)
    for _ in range(taken):
        next(batches)
    assert taken == 0 or set(threading.enumerate()) > before
    if ending == "close":
        batches.close()
    del batches
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize("crop_min", [0.08, 0.2, 1.0])
def test_decoding_at_reduced_size_leaves_the_smallest_crop_enough_pixels(crop_min):
    source = Flat(8)
    take(loader(source, recipe=dataclasses.replace(PLAIN, crop_scale=(crop_min, 1.0))), 1)
    (side,) = source.sides
    assert crop_min * side**2 >= 12**2 * (1 - 1e-9)
    assert crop_min * (side - 2) ** 2 < 12**2  # and no more than that
