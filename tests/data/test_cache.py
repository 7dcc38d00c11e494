"""Decoded images that fit stay in memory: the same pixels, decoded once, whatever thread asks; the budget decides."""

import dataclasses
import itertools
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from moco.workload import view_recipe
from PIL import Image

from moco import recipes
from moco.data.arrays import ArraySource
from moco.data.cache import SAMPLE, DecodedCache, plan_cache
from moco.data.decode import DamagedImage
from moco.data.folder import FolderSource
from moco.data.loader import BATCHED_SIDE, ViewLoader
from moco.data.order import EpochOrder
from moco.data.skipped import SkippedFiles

V2 = view_recipe(recipes.v2())
MIB = 2**20


class Counted(FolderSource):
    """Counts how often each image is decoded."""

    def __init__(self, root):
        super().__init__(root)
        self.decodes, self.headers, self.lock = Counter(), Counter(), threading.Lock()

    def pixels(self, index, *, min_side=None):
        with self.lock:
            self.decodes[index] += 1
        return super().pixels(index, min_side=min_side)

    def shapes(self, indices, *, min_side=None):
        self.headers.update(indices.tolist())
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


def loader(source, *, indices=None, skipped=None, **options):
    order = EpochOrder(np.arange(len(source)) if indices is None else indices, batch_size=4, seed=1)
    options = {"image_size": 12, "device": torch.device("cpu"), "workers": 3, **options}
    return ViewLoader(source, order, V2, skipped=skipped or SkippedFiles(), **options)


def take(one, count, first_step=0):
    batches = one.batches(first_step)
    try:
        return list(itertools.islice(batches, count))
    finally:
        batches.close()


def same(first, second):
    pairs = zip(itertools.chain(*first), itertools.chain(*second), strict=True)
    return all(torch.equal(one, two) for one, two in pairs)


def test_views_are_the_same_with_and_without_memory(photos):
    """Images of differing sizes: bit for bit, also when the run is resumed."""
    expected = take(loader(FolderSource(photos)), 14)
    source = Counted(photos)
    one = loader(source, cache_bytes=MIB)
    assert same(take(one, 14), expected)
    assert same(take(one, 5, first_step=9), expected[9:])
    assert same(take(loader(Counted(photos), cache_bytes=MIB), 5, first_step=9), expected[9:])


def test_the_second_epoch_decodes_nothing(photos):
    source = Counted(photos)
    one = loader(source, cache_bytes=MIB)
    take(one, 6)
    decoded = source.decodes.copy()
    assert sum(decoded.values()) >= 24
    take(one, 30)
    assert sorted(source.decodes) == list(range(24))
    assert max(source.decodes.values()) <= 2  # two threads may meet at an image once
    assert loader(source).storage.startswith("decoded images are not kept")


def test_images_of_one_size_become_one_array_before_the_first_step(squares):
    source, skipped = Counted(squares), SkippedFiles()
    one = loader(source, skipped=skipped, cache_bytes=MIB)
    first = take(one, 21)
    assert one.planner.array.shape == (30, 20, 24, 3)
    assert source.decodes == Counter(range(30))
    assert [item for item, _ in skipped.items()] == ["04.png"]
    for number in range(30):
        if number != 4:
            np.testing.assert_array_equal(
                one.planner.array[number], np.asarray(Image.open(squares / f"{number:02d}.png"))
            )
    assert same(take(loader(FolderSource(squares), cache_bytes=MIB), 12, first_step=9), first[9:])


@pytest.mark.parametrize("side", [BATCHED_SIDE, BATCHED_SIDE + 1])
def test_a_cpu_crops_larger_images_one_by_one_wherever_they_lie(tmp_path, side):
    """The views are those of a stream of files, and images are decoded as they come."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, side, 60, 3), dtype=np.uint8)
    (tmp_path / "images").mkdir()
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / "images" / f"{number:02d}.png")
    streamed = take(loader(FolderSource(tmp_path / "images")), 2)
    source = Counted(tmp_path / "images")
    kept = take(loader(source, cache_bytes=MIB), 2)
    lying = take(loader(ArraySource(pixels)), 2)
    assert same(kept, lying)
    assert same(kept, streamed) is (side > BATCHED_SIDE)
    assert (source.decodes == Counter(range(12))) or side > BATCHED_SIDE


def test_views_from_the_array_are_those_of_an_array_source(squares):
    (squares / "04.png").unlink()
    pixels = np.stack([np.asarray(Image.open(path)) for path in sorted(squares.iterdir())])
    chosen = np.array([25, 3, 7, 2, 11, 17, 28, 8, 1])
    expected = take(loader(ArraySource(pixels), indices=chosen), 9)
    one = loader(FolderSource(squares), indices=chosen, cache_bytes=MIB)
    assert same(take(one, 9), expected)
    assert len(one.planner.array) == len(chosen)


def test_damaged_images_of_an_array_are_replaced_by_others_in_use(squares):
    """The same ones as without memory."""
    flat = squares.parent / "flat"
    flat.mkdir()
    for number in range(30):
        Image.new("RGB", (24, 20), (number * 8, 0, 0)).save(flat / f"{number:02d}.png")
    for number in (3, 4, 12):
        (flat / f"{number:02d}.png").write_text("no image")
    plain = {"jitter_probability": 0.0, "grayscale_probability": 0.0, "blur_probability": 0.0}
    plain |= {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    recipe = dataclasses.replace(V2, **plain)
    seen = []
    for cache_bytes in (0, MIB):
        one = loader(FolderSource(flat), indices=np.arange(2, 22), cache_bytes=cache_bytes)
        one.planner.recipe = recipe
        seen.append([(view[:, 0].mean((1, 2)) * 255 / 8).round().int().tolist() for view, _ in take(one, 15)])
    assert seen[0] == seen[1]
    assert not {3, 4, 12} & set(itertools.chain(*seen[0]))
    assert set(itertools.chain(*seen[0])) <= set(range(2, 22))


def test_a_budget_that_is_too_small_says_so_and_keeps_nothing(photos):
    source = Counted(photos)
    total = sum(3 * int(np.prod(source.image(index).size)) for index in range(len(source)))
    cache, message = plan_cache(source, np.arange(24), budget=total)
    assert cache.nbytes == total
    assert message.startswith("decoded images stay in memory: 0.0 MiB of 0.0 MiB")
    cache, message = plan_cache(source, np.arange(24), budget=total - 1)
    assert cache is None
    assert "more than the 0.0 MiB of --cache-gib: they are decoded at each visit" in message
    assert "\n" not in message
    one = loader(source, cache_bytes=100)
    take(one, 12)
    assert min(source.decodes.values()) >= 2


def test_a_set_far_too_large_is_not_read_through(tmp_path):
    names = [f"{number:04d}.png" for number in range(SAMPLE * 4)]
    Image.new("RGB", (64, 64)).save(tmp_path / names[0])
    for name in names[1:]:
        (tmp_path / name).hardlink_to(tmp_path / names[0])
    source = Counted(tmp_path)
    assert plan_cache(source, np.arange(len(source)), budget=MIB)[0] is None
    assert sum(source.headers.values()) <= SAMPLE
    assert plan_cache(source, np.arange(len(source)), budget=100 * MIB)[0] is not None
    assert len(source.headers) == len(source)


@pytest.mark.parametrize("what", ["array", "named"])
def test_nothing_is_kept_of_what_is_decoded_already_or_tells_no_sizes(what):
    if what == "array":
        source = ArraySource(np.zeros((4, 8, 8, 3), dtype=np.uint8))
        assert "nothing is left to decode" in plan_cache(source, np.arange(4), budget=MIB)[1]
        return
    from moco.data.named import NamedSource

    cache, message = plan_cache(NamedSource([(None, 0)] * 4, name="things"), np.arange(4), budget=MIB)
    assert cache is None
    assert "things tells sizes only by decoding" in message


def test_threads_get_the_right_pixels(photos):
    source = FolderSource(photos)
    indices = np.arange(0, 24, 2)
    cache = DecodedCache(source, indices, source.shapes(indices), min_side=None)
    expected = [np.asarray(source.image(index)) for index in range(24)]
    with ThreadPoolExecutor(8) as pool:
        wanted = np.random.default_rng(0).integers(0, 24, 2000).tolist()
        for index, pixels in zip(wanted, pool.map(cache.pixels, wanted), strict=True):
            np.testing.assert_array_equal(pixels, expected[index])
    assert cache.nbytes == sum(expected[index].nbytes for index in indices)


def test_a_file_that_is_not_what_its_first_bytes_said_is_decoded_at_each_visit(squares):
    (squares / "04.png").unlink()
    source = FolderSource(squares)
    cache = DecodedCache(source, np.arange(29), source.shapes(np.arange(29)), min_side=None)
    changed = np.full((30, 22, 3), 7, dtype=np.uint8)
    Image.fromarray(changed).save(squares / "05.png")
    assert cache.shape == (20, 24)
    cache.fill(SkippedFiles(), workers=2)
    assert cache.array() is None
    np.testing.assert_array_equal(cache.pixels(4), changed)
    np.testing.assert_array_equal(cache.pixels(3), np.asarray(source.image(3)))


def test_a_damaged_image_is_damaged_at_each_visit(squares):
    source = FolderSource(squares)
    cache = DecodedCache(source, np.arange(30), source.shapes(np.arange(30)), min_side=None)
    for _ in range(2):
        with pytest.raises(DamagedImage):
            cache.pixels(4)


def test_reduced_decoding_is_what_stays(tmp_path):
    """A photograph of 800 x 600 for views of 12 px is kept at an eighth of its size."""
    Image.new("RGB", (800, 600), "teal").save(tmp_path / "a.jpg")
    Image.new("RGB", (640, 600), "teal").save(tmp_path / "b.jpg")
    cache, _ = plan_cache(FolderSource(tmp_path), np.arange(2), budget=MIB, min_side=27)
    assert cache.pixels(0).shape == (75, 100, 3)
    assert cache.nbytes == 3 * 75 * (100 + 80)
