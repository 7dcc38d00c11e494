"""The picture book: one seed, one book; classes differ by shape alone; annotations fit the pixels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moco.data import picturebook
from moco.data.picturebook import CLASSES, KEYPOINTS, PART_IDS, PARTS, draw_annotated, draw_book
from moco.data.picturebook.names import mirrored_order
from moco.data.picturebook.render import paint, part_map
from moco.data.picturebook.scene import Filled, Scene
from moco.data.picturebook.shapes import SHAPES

SEEDS = st.integers(0, 2**63 - 1)


@pytest.fixture(scope="module")
def book():
    return draw_book(1000, seed=5)


@pytest.fixture(scope="module")
def annotated():
    return draw_annotated(300, seed=11)


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


def test_splits_are_books_of_the_split_seeds():
    train, test = picturebook.splits(7, num_train=20, num_test=10)
    train_seed, test_seed = picturebook.split_seeds(7)
    np.testing.assert_array_equal(train.images, draw_book(20, seed=train_seed).images)
    np.testing.assert_array_equal(test.images, draw_book(10, seed=test_seed).images)


def test_mean_colour_tells_nothing_of_the_class(book):
    colours = book.images.mean(axis=(1, 2))
    train, test = colours[:500], colours[500:]
    means = np.stack([train[book.labels[:500] == label].mean(axis=0) for label in range(len(CLASSES))])
    nearest = np.linalg.norm(test[:, None] - means, axis=-1).argmin(axis=1)
    assert np.mean(nearest == book.labels[500:]) < 0.18  # chance is 0.10, its standard deviation 0.013
    spread = colours.std(axis=0) / np.sqrt(100)
    all_means = np.stack([colours[book.labels == label].mean(axis=0) for label in range(len(CLASSES))])
    assert np.all(np.abs(all_means - colours.mean(axis=0)) < 4 * spread)


def test_the_object_dominates_and_stands_off_the_background(annotated):
    shares = annotated.masks.mean(axis=(1, 2))
    assert shares.min() > 0.02
    assert 0.15 < np.median(shares) < 0.4
    inside = annotated.masks.astype(bool)
    distances = [
        np.linalg.norm(image[mask].mean(axis=0) - image[~mask].mean(axis=0))
        for image, mask in zip(annotated.images.astype(float), inside, strict=True)
    ]
    assert np.median(distances) > 60


@settings(max_examples=6, deadline=None)
@given(seed=SEEDS, size=st.sampled_from([16, 33, 64]))
def test_annotated_pictures_are_the_plain_ones(seed, size):
    plain, annotated = draw_book(10, seed=seed, size=size), draw_annotated(10, seed=seed, size=size)
    np.testing.assert_array_equal(plain.images, annotated.images)
    np.testing.assert_array_equal(plain.labels, annotated.labels)


def test_boxes_are_tight_around_masks(annotated):
    for (left, top, right, bottom), mask in zip(annotated.boxes.astype(int), annotated.masks, strict=True):
        within = mask[top:bottom, left:right]
        assert within.sum() == mask.sum() > 0
        assert within[0].any()
        assert within[-1].any()
        assert within[:, 0].any()
        assert within[:, -1].any()


def test_masks_are_where_part_maps_name_a_part(annotated):
    np.testing.assert_array_equal(annotated.masks, annotated.part_maps > 0)
    assert set(np.unique(annotated.masks)) == {0, 1}


def test_part_maps_hold_parts_of_their_own_class_only(annotated):
    seen = set()
    for label, parts in zip(annotated.labels, annotated.part_maps, strict=True):
        own = {PART_IDS[CLASSES[label], part] for part in PARTS[CLASSES[label]]}
        present = set(np.unique(parts).tolist()) - {0}
        assert present <= own
        seen |= present
    assert seen == set(PART_IDS.values())


def test_masks_lie_on_the_pixels_that_the_object_changed(monkeypatch):
    annotated = draw_annotated(40, seed=2)
    monkeypatch.setattr(
        "moco.data.picturebook.book.paint",
        lambda scene, size, generator: paint(scene._replace(object=[]), size, generator),
    )
    changed = np.any(annotated.images != draw_book(40, seed=2).images, axis=-1)
    masks = annotated.masks.astype(bool)
    assert np.mean(changed[masks]) > 0.98  # a few have the very colour of what lies behind
    padded = np.pad(masks, ((0, 0), (1, 1), (1, 1)))
    near = np.any([padded[:, y : y + 64, x : x + 64] for y in range(3) for x in range(3)], axis=0)
    assert np.mean(near[changed]) > 0.995  # the rest: tips thinner than half a pixel


@pytest.mark.parametrize(("cells", "seen"), [(1, False), (2, True), (4, True)])
def test_a_pixel_is_the_objects_from_half_of_it_on(cells, seen):
    right, bottom = {1: (0, 0), 2: (1, 0), 4: (1, 1)}[cells]  # last of the pixel's 2 x 2 cells to be covered
    edges = [(x + 0.5) / 32 for x in (6, 6 + right)], [(y + 0.5) / 32 for y in (8, 8 + bottom)]
    corners = [(edges[0][0], edges[1][0]), (edges[0][1], edges[1][0]), (edges[0][1], edges[1][1])]
    corners.append((edges[0][0], edges[1][1]))
    scene = Scene(np.zeros((16, 16, 3), np.uint8), [], [Filled(corners, (255, 0, 0), 7)], [])
    parts = part_map(scene, 16)
    assert parts[4, 3] == (7 if seen else 0)
    assert parts.sum() == parts[4, 3]


def test_visible_keypoints_lie_in_the_frame_on_the_object(annotated):
    count = 0
    for points, mask in zip(annotated.keypoints, annotated.masks, strict=True):
        rows, columns = np.nonzero(mask)
        for x, y, visibility in points:
            if visibility == 0:
                assert (x, y) == (0, 0)
                continue
            assert visibility == 2
            assert 0 <= x < 64
            assert 0 <= y < 64
            assert np.hypot(columns + 0.5 - x, rows + 0.5 - y).min() < 3.0
            count += 1
    assert 0.6 < count / annotated.keypoints[..., 0].size < 0.98


def test_keypoints_hit_the_part_that_they_name(annotated):
    named = {("cat", "left_eye"): "eye", ("car", "front_wheel"): "wheel", ("flower", "bloom"): "disc"}
    named |= {("person", "head"): "head", ("fish", "eye"): "eye", ("cat", "nose"): "nose"}
    hits = dict.fromkeys(named, 0)
    for label, points, parts in zip(annotated.labels, annotated.keypoints, annotated.part_maps, strict=True):
        name = CLASSES[label]
        for keypoint, (x, y, visibility) in zip(KEYPOINTS[name], points, strict=True):
            if (name, keypoint) in named and visibility:
                row, column = int(y), int(x)
                near = parts[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
                assert PART_IDS[name, named[name, keypoint]] in near
                hits[name, keypoint] += 1
    assert min(hits.values()) >= 5


def test_left_keypoints_lie_left_of_their_right_twins_even_when_mirrored(annotated):
    pairs = 0
    for label, points in zip(annotated.labels, annotated.keypoints, strict=True):
        names = KEYPOINTS[CLASSES[label]]
        for number, name in enumerate(names):
            twin = name.replace("left", "right")
            if twin != name and points[number, 2] and points[names.index(twin), 2]:
                assert points[number, 0] < points[names.index(twin), 0]
                pairs += 1
    assert pairs > 50


def test_some_keypoints_of_turning_objects_are_mirrored(annotated):
    points = annotated.keypoints[annotated.labels == CLASSES.index("car")]
    rear, front = points[:, 0], points[:, 1]
    both = (rear[:, 2] > 0) & (front[:, 2] > 0)
    assert 0.2 < np.mean(rear[both, 0] < front[both, 0]) < 0.8


def test_a_larger_picture_shows_the_same_scene(annotated):
    large = draw_annotated(30, seed=11, size=128)
    np.testing.assert_array_equal(large.labels, annotated.labels[:30])
    np.testing.assert_allclose(large.keypoints[..., :2], 2 * annotated.keypoints[:30, :, :2], rtol=1e-5)
    assert np.abs(large.boxes - 2 * annotated.boxes[:30]).max() <= 8  # a pixel's rounding, and hair-thin tips
    half = large.masks[:, ::2, ::2]
    overlap = (half & annotated.masks[:30]).sum() / (half | annotated.masks[:30]).sum()
    assert overlap > 0.9


def test_names_are_whole():
    assert CLASSES == ("house", "car", "tree", "fish", "flower", "mug", "sailboat", "mushroom", "cat", "person")
    assert tuple(SHAPES) == tuple(PARTS) == tuple(KEYPOINTS) == CLASSES
    assert list(PART_IDS.values()) == list(range(1, len(PART_IDS) + 1))
    assert set(PART_IDS) == {(name, part) for name, parts in PARTS.items() for part in parts}
    assert all(len(set(names)) == 5 for names in KEYPOINTS.values())


@pytest.mark.parametrize("name", CLASSES)
def test_shapes_are_made_of_their_named_parts(name):
    generator = np.random.default_rng(0)
    for _ in range(20):
        shape = SHAPES[name](generator.uniform)
        assert {part.name for part in shape.parts} == set(PARTS[name])
        assert len(shape.keypoints) == len(KEYPOINTS[name])
        corners = np.array([corner for part in shape.parts for corner in part.outline])
        assert np.abs(corners).max() < 1.15
        assert np.ptp(corners, axis=0).max() > 1.3


@pytest.mark.parametrize("name", CLASSES)
def test_mirroring_twice_changes_nothing(name):
    order = mirrored_order(name)
    assert [order[number] for number in order] == list(range(5))
