"""A user's own transform, of the pair of views or of a data set: seed and sample decide its draws.

What it may return is checked, and what it raises is told.
"""

import random

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from moco.data.image_batches import image_batches
from moco.data.order import EpochOrder
from moco.data.skipped import SkippedFiles
from moco.data.source import open_source
from moco.errors import DataError
from tests.data.examples import PLAIN, SIZE, Reddish, loader, same, take


def drawn(image: Image.Image) -> torch.Tensor:
    """A flat view of three draws, one of each global generator, and of the image's red value."""
    red = image.getpixel((0, 0))[0]
    values = [torch.rand(()).item() + red, np.random.rand() + red, random.random() + red]  # noqa: NPY002
    return torch.tensor(values)[:, None, None].expand(3, 4, 4)


def twice(image):
    return drawn(image), drawn(image)


TORCHVISION = v2.Compose(
    [v2.RandomResizedCrop(8), v2.RandomHorizontalFlip(), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
)
TRANSFORMS = {"one call": twice, "a pair": (drawn, drawn), "torchvision": (TORCHVISION, TORCHVISION)}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_views_follow_from_seed_and_sample_whatever_workers_and_ranks(name):
    def made(count=6, first_step=0, **options):
        return take(loader(Reddish(20, damaged={4}), transform=TRANSFORMS[name], **options), count, first_step)

    expected = made()
    assert same(made(), expected)
    assert same(made(workers=2), expected)
    assert same(made(2, first_step=4), expected[4:])
    halves = [made(rank=rank, world_size=2) for rank in (0, 1)]
    assert same([[torch.cat(both) for both in zip(*step, strict=True)] for step in zip(*halves, strict=True)], expected)
    assert not torch.equal(made(seed=4)[0][0], expected[0][0])
    everything = torch.cat([view for step in expected for view in step[:2]]).flatten(1)
    assert torch.pdist(everything).min() > 1e-3, "each view draws for itself"


def test_the_image_comes_as_it_is_stored():
    for first, second, indices in take(loader(Reddish(20), transform=twice), 5):
        for view in (first, second):
            assert torch.equal(view[:, 0, 0, 0].floor().long(), indices)
    source = Reddish(8)
    take(loader(source, transform=twice), 1)
    assert source.min_sides == {None}, "at full size, as its crops are not known"


def test_each_callable_of_a_pair_makes_its_own_view():
    pair = (lambda image: torch.zeros(3, SIZE, SIZE), lambda image: torch.ones(3, SIZE, SIZE))
    ((first, second, _),) = take(loader(Reddish(8), transform=pair), 1)
    assert (first.unique().tolist(), second.unique().tolist()) == ([0.0], [1.0])


def test_one_view_is_the_first_of_two():
    two, one = (take(loader(Reddish(20), transform=twice, views=views), 4) for views in (2, 1))
    assert same([(first, indices) for first, _, indices in two], one)


def test_the_global_generators_go_on_as_if_nothing_had_been_drawn():
    def draw():
        return torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()  # noqa: NPY002

    def seed():
        torch.manual_seed(1)
        np.random.seed(1)  # noqa: NPY002
        random.seed(1)

    seed()
    expected = draw()
    seed()
    take(loader(Reddish(20), transform=twice), 3)
    assert draw() == expected
    seed()
    with pytest.raises(DataError):
        take(loader(Reddish(20), transform=lambda image: (drawn(image), 1 / 0)), 1)
    assert draw() == expected


REFUSED = {
    "one view": (drawn, r"float32 \(3, 4, 4\)"),
    "three views": (lambda image: (drawn(image),) * 3, "tuple"),
    "not tensors": (lambda image: (image, image), "Image"),
    "whole numbers": (lambda image: (drawn(image).byte(),) * 2, "uint8"),
    "a channel": (lambda image: (drawn(image)[:1],) * 2, r"\(1, 4, 4\)"),
    "a batch": (lambda image: (drawn(image)[None],) * 2, r"\(1, 3, 4, 4\)"),
    "sizes that differ": (lambda image: (drawn(image), torch.zeros(3, 5, 4)), r"\(3, 4, 4\), \(3, 5, 4\)"),
    "sizes of images": ((v2.PILToTensor(), v2.PILToTensor()), "uint8"),
    "nothing": (lambda image: None, "NoneType"),
}


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("name", REFUSED)
def test_what_a_transform_may_not_return_is_named_in_one_line(name, workers):
    transform, came = REFUSED[name]
    with pytest.raises(DataError, match=f"transform.*{came}") as caught:
        take(loader(Reddish(20), transform=transform, workers=workers), 1)
    assert "\n" not in str(caught.value)


def broken(image):
    return drawn(image), 1 / 0


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("transform", [broken, (drawn, broken)])
def test_a_transform_that_raises_is_named_with_image_and_cause_in_one_line(transform, workers):
    first = EpochOrder(np.arange(20), batch_size=4, seed=3).batch(0)[0]
    with pytest.raises(DataError, match=rf"broken .*{first.image:03d}\.jpg .*ZeroDivisionError: division") as caught:
        take(loader(Reddish(20), transform=transform, workers=workers), 1)
    assert "\n" not in str(caught.value)
    assert "1 / 0" in str(caught.value.__cause__), "the user's own line is in the chain"


def test_a_transform_that_raises_late_ends_the_run_and_not_the_worker():
    late = EpochOrder(np.arange(20), batch_size=4, seed=3).batch(2)[1].image

    def picky(image):
        if image.getpixel((0, 0))[0] == late:
            raise ValueError("not this\none")
        return twice(image)

    batches = loader(Reddish(20), transform=picky, workers=2).batches(0)
    for _ in range(2):
        next(batches)
    with pytest.raises(DataError, match=rf"picky .*{late:03d}\.jpg .*ValueError: not this one"):
        next(batches)


def flat(image):
    """A random transform: one draw of each of the three global generators."""
    values = [torch.rand(()).item(), np.random.rand(), random.random()]  # noqa: NPY002
    return np.tile((255 * np.array(values)).astype(np.uint8), (24, 24, 1))


AS_TENSOR = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])


@pytest.fixture
def of_own_transform(tmp_path):
    """A data set whose images come out of a random transform of its own."""
    for index in range(6):
        path = tmp_path / "ab"[index % 2] / f"{index}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(path)
    return ImageFolder(tmp_path, transform=flat)


@pytest.mark.parametrize("views", [{"recipe": PLAIN}, {"transform": (AS_TENSOR, AS_TENSOR)}], ids=["recipe", "pair"])
def test_a_data_sets_own_random_transform_draws_by_seed_step_and_position(of_own_transform, views):
    """Whatever the workers, and when a run goes on; this process draws as if nothing had been read."""

    def made(count=6, first_step=0, **options):
        return take(loader(source, batch=2, **views, **options), count, first_step)

    source, _ = open_source(of_own_transform)
    state = torch.get_rng_state()
    expected = made()
    for workers in (1, 2):
        assert same(made(workers=workers), expected)
    for workers in (0, 2):
        assert same(made(2, first_step=4, workers=workers), expected[4:])
    assert torch.equal(torch.get_rng_state(), state)
    colors = torch.cat([first for first, _, _ in expected]).amax((2, 3))
    assert len(colors.unique(dim=0)) == 12, "each sample draws for itself"
    assert not torch.equal(made(1, seed=4)[0][0], expected[0][0])


def test_a_data_sets_own_random_transform_is_evaluated_alike_by_any_workers(of_own_transform):
    def read(workers):
        batches = image_batches(source, np.array, batch_size=2, skipped=SkippedFiles(), workers=workers)
        return np.concatenate([batch.pixels for batch in batches])

    source, _ = open_source(of_own_transform)
    expected = read(0)
    assert len(np.unique(expected[:, 0, 0], axis=0)) == 6
    for workers in (1, 2):
        np.testing.assert_array_equal(read(workers), expected)
