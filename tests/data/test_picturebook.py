"""The picture book: one seed, one book; classes differ by shape alone; what cannot be drawn is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moco.data import picturebook
from moco.data.picturebook import CLASSES, draw_book
from moco.data.picturebook.shapes import SHAPES
from moco.errors import DataError

SEEDS = st.integers(0, 2**63 - 1)


@pytest.fixture(scope="module")
def book():
    return draw_book(1000, seed=5)


def digests(images: np.ndarray) -> set[bytes]:
    return {image.tobytes() for image in images}


def test_pictures_are_bytes_in_rgb_and_labels_whole_numbers(book):
    assert book.images.dtype == np.uint8
    assert book.images.shape == (1000, 64, 64, 3)
    assert book.labels.dtype == np.int64
    assert book.labels.shape == (1000,)
    assert len(book) == 1000
    assert book.images.min() == 0
    assert book.images.max() == 255


@settings(max_examples=8, deadline=None)
@given(seed=SEEDS)
def test_same_seed_same_book(seed):
    first, second = draw_book(12, seed=seed), draw_book(12, seed=seed)
    np.testing.assert_array_equal(first.images, second.images)
    np.testing.assert_array_equal(first.labels, second.labels)


@settings(max_examples=8, deadline=None)
@given(seed=SEEDS, few=st.integers(1, 24), more=st.integers(0, 24))
def test_a_shorter_book_is_the_beginning_of_a_longer_one(seed, few, more):
    short, long = draw_book(few, seed=seed, size=32), draw_book(few + more, seed=seed, size=32)
    np.testing.assert_array_equal(short.images, long.images[:few])
    np.testing.assert_array_equal(short.labels, long.labels[:few])


def test_numpy_global_state_neither_matters_nor_changes():
    books, states = [], []
    for state in (1, 2):
        np.random.seed(state)  # noqa: NPY002 - the global state is what this is about
        before = np.random.get_state()[1].copy()  # noqa: NPY002
        books.append(draw_book(3, seed=0))
        states.append(np.array_equal(before, np.random.get_state()[1]))  # noqa: NPY002
    assert states == [True, True]
    np.testing.assert_array_equal(books[0].images, books[1].images)


def test_every_ten_pictures_hold_each_class_once_in_changing_order(book):
    tens = book.labels.reshape(-1, len(CLASSES))
    np.testing.assert_array_equal(np.sort(tens, axis=1), np.tile(np.arange(len(CLASSES)), (len(tens), 1)))
    assert len({tuple(ten) for ten in tens.tolist()}) > 90


def test_no_picture_repeats_within_or_between_streams(book):
    train, test = picturebook.splits(3, num_train=300, num_test=200)
    other_train, other_test = picturebook.splits(4, num_train=300, num_test=200)
    books = [train, test, other_train, other_test, book]
    together = set().union(*(digests(one.images) for one in books))
    assert len(together) == sum(map(len, books))


def test_splits_are_books_of_two_seeds_of_their_own():
    train, test = picturebook.splits(7, num_train=20, num_test=10)
    np.testing.assert_array_equal(train.images, draw_book(20, seed=14).images)
    np.testing.assert_array_equal(test.images, draw_book(10, seed=15).images)


def test_mean_colour_tells_nothing_of_the_class(book):
    colours = book.images.mean(axis=(1, 2))
    train, test = colours[:500], colours[500:]
    means = np.stack([train[book.labels[:500] == label].mean(axis=0) for label in range(len(CLASSES))])
    nearest = np.linalg.norm(test[:, None] - means, axis=-1).argmin(axis=1)
    assert np.mean(nearest == book.labels[500:]) < 0.18  # chance is 0.10, its standard deviation 0.013
    spread = colours.std(axis=0) / np.sqrt(100)
    all_means = np.stack([colours[book.labels == label].mean(axis=0) for label in range(len(CLASSES))])
    assert np.all(np.abs(all_means - colours.mean(axis=0)) < 4 * spread)


@pytest.mark.parametrize("name", CLASSES)
def test_shapes_fill_their_frame_and_vary(name):
    generator = np.random.default_rng(0)
    assert SHAPES[name](generator.uniform) != SHAPES[name](generator.uniform)
    for _ in range(20):
        corners = np.array([corner for _, outline in SHAPES[name](generator.uniform) for corner in outline])
        assert np.abs(corners).max() < 1.15
        assert np.ptp(corners, axis=0).max() > 1.3


def test_a_larger_picture_shows_the_same_scene():
    small, large = draw_book(30, seed=11), draw_book(30, seed=11, size=128)
    np.testing.assert_array_equal(large.labels, small.labels)
    halved = large.images.reshape(30, 64, 2, 64, 2, 3).mean(axis=(2, 4))
    difference = np.abs(halved - small.images).mean()
    assert difference < 12 < np.abs(halved - small.images[::-1]).mean() / 2  # noise of 10, and edges


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"num_images": 0}, "num_images=0; give a whole number of at least 1"),
        ({"num_images": 2.5}, r"num_images=2\.5"),
        ({"num_images": True}, "num_images=True"),
        ({"seed": -1}, "seed=-1; give a whole number from 0 to"),
        ({"seed": 2**63}, "seed=9223372036854775808"),
        ({"seed": None}, "seed=None"),
        ({"size": 8}, "size=8"),
        ({"size": "64"}, "size='64'"),
    ],
)
def test_what_cannot_be_drawn_is_refused(arguments, named):
    with pytest.raises(DataError, match=named):
        draw_book(**{"num_images": 1, "seed": 0, **arguments})
    if "seed" in arguments:
        with pytest.raises(DataError, match="seed="):
            picturebook.splits(arguments["seed"], num_train=1, num_test=1)


def test_splits_have_half_as_many_seeds():
    with pytest.raises(DataError, match=f"seed={2**62}; "):
        picturebook.splits(2**62)


def test_numpy_whole_numbers_are_welcome():
    plain, numpy = draw_book(2, seed=3, size=32), draw_book(np.int64(2), seed=np.int32(3), size=np.int16(32))
    np.testing.assert_array_equal(plain.images, numpy.images)
