"""Views of each step: a function of seed and step alone, whatever the workers, the ranks and the images' place."""

import dataclasses
import itertools
import multiprocessing
import os
import signal
import tempfile
import time
import warnings
from collections import Counter

import numpy as np
import pytest
import torch

from moco.data import loader as loader_module
from moco.data import shared_memory
from moco.data.arrays import ArraySource
from moco.data.augment import ColorDraws, CropBoxes, resized_crop
from moco.data.folder import FolderSource
from moco.data.order import COLORS, VIEWS, EpochOrder, keyed_generator
from moco.data.skipped import SkippedFiles
from moco.data.workers import cores
from moco.errors import DataError, RunError
from tests.data.examples import (
    EVERYTHING,
    PLAIN,
    RECIPES,
    SIZE,
    SOURCES,
    Reddish,
    loader,
    numbers,
    same,
    take,
)
from tests.reference.views import naive_photometric

DAMAGED = {0, 3, 4, 11}


@pytest.fixture(autouse=True)
def no_worker_is_left():
    yield
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("name", ["v1", "v3", "everything"])
def test_views_are_those_of_the_per_image_twin(kind, name):
    """Which box, flip and colours are whose: of view v of sample p, number p + v * batch of the step's draws."""
    recipe = {**RECIPES, "everything": EVERYTHING}[name]
    source, batch, step = SOURCES[kind](23), 5, 6
    ((*views, indices),) = take(loader(source, batch=batch, recipe=recipe), 1, first_step=step)
    draws = keyed_generator(3, VIEWS, step)
    boxes = CropBoxes(2 * batch, crop_min=recipe.crop_min, generator=draws)
    flips = torch.rand(2 * batch, generator=draws) < recipe.flip_probability
    colors = [ColorDraws.sample(2 * batch, r, keyed_generator(3, COLORS, step)) for r in (recipe, recipe.second)]
    for number, (view, position) in enumerate(itertools.product((0, 1), range(batch))):
        pixels, crop = source[int(indices[position])], torch.empty(SIZE, SIZE, 3, dtype=torch.uint8)
        resized_crop(pixels, boxes.box(number, *pixels.shape[:2]), bool(flips[number]), crop.numpy())
        expected = naive_photometric(crop, recipe, colors[view], number)
        torch.testing.assert_close(views[view][position], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", SOURCES)
def test_seed_decides_every_bit_and_a_resumed_run_continues_exactly(kind):
    """Five steps make an epoch here; a loader may be started again."""
    one = loader(SOURCES[kind](23), recipe=EVERYTHING)
    whole = take(one, 14)
    assert same(whole, take(one, 14))
    for first_step in (1, 5, 8):
        again = loader(SOURCES[kind](23), recipe=EVERYTHING)
        assert same(whole[first_step:], take(again, 14 - first_step, first_step))
    other = take(loader(SOURCES[kind](23), recipe=EVERYTHING, seed=4), 14)
    assert not any(torch.equal(one[0], two[0]) for one, two in zip(whole, other, strict=True))
    assert not any(torch.equal(one[0], two[0]) for one, two in itertools.combinations(whole, 2))


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("workers", [1, 2, None])
def test_number_of_workers_does_not_change_a_bit(kind, workers):
    expected = take(loader(SOURCES[kind](23), recipe=EVERYTHING), 8, first_step=2)
    assert same(take(loader(SOURCES[kind](23), recipe=EVERYTHING, workers=workers), 8, first_step=2), expected)


def test_more_workers_than_cores_are_started_without_a_word():
    wanted = cores() + 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        batches = loader(Reddish(40), workers=wanted).batches(0)
        next(batches)
    assert len(multiprocessing.active_children()) == wanted
    batches.close()


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_together_make_the_views_of_one_process_bit_for_bit(kind, world_size):
    source = SOURCES[kind](25)
    alone = take(loader(source, batch=6, recipe=EVERYTHING), 6)
    ranks = [
        take(loader(source, batch=6, recipe=EVERYTHING, rank=rank, world_size=world_size), 6)
        for rank in range(world_size)
    ]
    together = [[torch.cat(parts) for parts in zip(*step, strict=True)] for step in zip(*ranks, strict=True)]
    assert same(together, alone)


def test_damaged_images_are_replaced_alike_by_all_workers_and_ranks():
    alone = take(loader(Reddish(23, damaged=DAMAGED), recipe=EVERYTHING), 6)
    assert same(take(loader(Reddish(23, damaged=DAMAGED), recipe=EVERYTHING, workers=2), 6), alone)
    halves = [
        take(loader(Reddish(23, damaged=DAMAGED), recipe=EVERYTHING, rank=rank, world_size=2), 6) for rank in (0, 1)
    ]
    together = [[torch.cat(parts) for parts in zip(*step, strict=True)] for step in zip(*halves, strict=True)]
    assert same(together, alone)


@pytest.mark.parametrize("kind", SOURCES)
def test_one_view_is_the_first_of_two(kind):
    for recipe in (EVERYTHING, RECIPES["v3"]):
        two, one = (take(loader(SOURCES[kind](23), recipe=recipe, views=views), 12) for views in (2, 1))
        assert {len(tensors) for tensors in one} == {2}
        assert same([(first, indices) for first, _, indices in two], one)


@pytest.mark.parametrize("kind", SOURCES)
def test_each_image_comes_once_an_epoch_and_both_views_show_it(kind):
    one = loader(SOURCES[kind](40), indices=range(5, 25))
    for epoch in range(3):
        batches = take(one, 5, first_step=5 * epoch)
        assert sorted(number for view, _, _ in batches for number in numbers(view)) == list(range(5, 25))
        for first, second, indices in batches:
            assert numbers(first) == numbers(second) == indices.tolist()
            assert first.shape == second.shape == (4, 3, SIZE, SIZE)
            assert first.dtype == torch.float32
            assert (first - second).abs().amax((1, 2, 3)).min() > 0.01


def test_no_two_views_of_one_picture_are_alike():
    """Neither the two of a sample nor those of two samples, steps or ranks that hold the same picture."""
    picture = Reddish(1).pixels(0)
    source = ArraySource(np.repeat(picture[None], 8, axis=0))
    made = [take(loader(source, recipe=RECIPES["v1"], rank=rank, world_size=2), 3) for rank in (0, 1)]
    views = torch.cat([view for rank in made for step in rank for view in step[:2]]).flatten(1)
    assert len(views) == 2 * 2 * 3 * 2
    assert torch.pdist(views).min() > 0.1


def test_flips_are_drawn_for_each_view():
    """Within 4.5 standard errors of a half; none at 0, all at 1."""
    ramp = np.tile(np.arange(0, 240, 10, dtype=np.uint8)[:, None], (400, 24, 1, 3))
    source = ArraySource(ramp)
    for probability in (0.0, 0.5, 1.0):
        recipe = dataclasses.replace(PLAIN, crop_min=1.0, flip_probability=probability)
        for view in take(loader(source, batch=400, recipe=recipe), 1)[0][:2]:
            mirrored = (view[:, 0, 0, 0] > view[:, 0, 0, -1]).double().mean().item()
            assert abs(mirrored - probability) <= 4.5 * (probability * (1 - probability) / 400) ** 0.5


@pytest.mark.parametrize("workers", [0, 2])
def test_damaged_images_are_replaced_listed_and_told(workers):
    skipped = SkippedFiles()
    batches = take(loader(Reddish(20, damaged=DAMAGED), skipped=skipped, workers=workers), 15)
    order = EpochOrder(np.arange(20), batch_size=4, seed=3)
    replaced = Counter()
    for step, (first, second, indices) in enumerate(batches):
        assert numbers(first) == numbers(second) == indices.tolist()
        for sample, found in zip(order.batch(step), indices.tolist(), strict=True):
            assert found not in DAMAGED
            assert sample.image in DAMAGED or found == sample.image
            replaced[found] += sample.image in DAMAGED
    assert sum(replaced.values()) == 3 * len(DAMAGED)
    assert len(+replaced) > 4, "not always the same one"
    assert [item for item, _ in skipped.items()] == [f"{number:03d}.jpg" for number in sorted(DAMAGED)]
    assert all("truncated" in reason for _, reason in skipped.items())


def test_files_that_are_empty_cut_off_or_no_images_are_passed_over(photos):
    cut = next(photos.rglob("*.jpg")).read_bytes()
    bad = {"empty.jpg": b"", "cut.jpg": cut[: len(cut) // 2], "text.png": b"not an image"}
    for name, content in bad.items():
        (photos / name).write_bytes(content)
    source, skipped = FolderSource(photos), SkippedFiles()
    assert len(source) == 27
    made = take(loader(source, batch=9, recipe=EVERYTHING, skipped=skipped), 3)
    assert [item for item, _ in skipped.items()] == sorted(bad)
    assert all(view.isfinite().all() for first, second, _ in made for view in (first, second))


def test_replacements_come_from_the_images_in_use():
    for *_, indices in take(loader(Reddish(60, damaged=range(20, 36)), indices=range(20, 40)), 10):
        assert set(indices.tolist()) <= {36, 37, 38, 39}


@pytest.mark.parametrize("workers", [0, 1])
def test_a_folder_of_damaged_files_ends_in_one_clear_line(workers):
    skipped = SkippedFiles()
    with pytest.raises(DataError, match="100 images in a row") as caught:
        take(loader(Reddish(8, damaged=range(8)), skipped=skipped, workers=workers), 1)
    assert "\n" not in str(caught.value)
    assert skipped.count == 8


def test_files_are_decoded_no_larger_than_the_smallest_crop_needs():
    source = Reddish(8)
    take(loader(source), 1)
    assert source.min_sides == {PLAIN.min_side(SIZE)}


@pytest.mark.parametrize("workers", [0, 2])
def test_the_global_generators_are_left_alone(workers):
    def states():
        return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist()  # noqa: NPY002

    before = states()
    take(loader(Reddish(20), recipe=EVERYTHING, workers=workers), 3)
    assert states() == before


@pytest.mark.parametrize("kind", SOURCES)
def test_batches_are_the_same_by_name_and_through_pipes_where_shared_memory_is_small(kind, monkeypatch):
    expected = take(loader(SOURCES[kind](20), recipe=EVERYTHING, workers=2), 5)
    assert expected[0][0].is_shared()
    monkeypatch.setattr(shared_memory, "NAMELESS", False)
    by_name = take(loader(SOURCES[kind](20), recipe=EVERYTHING, workers=2), 5)
    assert same(by_name, expected)
    monkeypatch.setattr(shared_memory, "SPARE", 2**80)
    piped = take(loader(SOURCES[kind](20), recipe=EVERYTHING, workers=2), 5)
    assert not piped[0][0].is_shared()
    assert same(piped, expected)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_few_batches_are_made_ahead_and_no_more(workers):
    source = Reddish(200)
    batches = loader(source, workers=workers).batches(0)
    next(batches)
    most = 4 * (1 + workers * loader_module.PREFETCH)
    deadline = time.monotonic() + 20
    while source.visits.sum() < most and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.1)
    assert source.visits.sum() == most
    batches.close()


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("good", [0, 2])
def test_an_error_of_the_source_reaches_the_caller_after_the_batches_before_it(workers, good):
    broken = EpochOrder(np.arange(20), batch_size=4, seed=3).batch(good)[1].image
    batches = loader(Reddish(20, broken={broken}), workers=workers).batches(0)
    for _ in range(good):
        next(batches)
    with pytest.raises(RuntimeError, match="the disk is on fire") as caught:
        next(batches)
    assert multiprocessing.active_children() == [], "though the error is still held"
    assert not isinstance(caught.value, RunError)
    with pytest.raises(StopIteration):
        next(batches)


def test_the_death_of_a_worker_is_told_where_the_next_batch_is_taken(tmp_path, monkeypatch):
    """In one line, and nowhere else, though PyTorch would raise in the middle of a step."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # a killed worker leaves the folder of its socket
    batches = loader(Reddish(200), workers=2).batches(0)
    next(batches)
    dying = multiprocessing.active_children()[0]
    os.kill(dying.pid, signal.SIGKILL)
    dying.join()
    with pytest.raises(RunError, match="--workers") as caught:
        for _ in batches:
            pass
    assert "\n" not in str(caught.value)
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("taken", [0, 1, 4])
@pytest.mark.parametrize("slow", [False, True])
def test_closing_ends_the_workers_within_a_second_though_an_image_takes_longer(taken, slow):
    order = EpochOrder(np.arange(100), batch_size=4, seed=3)
    quick = {sample.image for step in range(taken) for sample in order.batch(step)}
    batches = loader(Reddish(100, slow=set(range(100)) - quick if slow else ()), workers=2).batches(0)
    for _ in range(taken):
        next(batches)
    start = time.monotonic()
    batches.close()
    assert time.monotonic() - start < 1.0
    assert multiprocessing.active_children() == []
