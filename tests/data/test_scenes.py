"""Annotations of the picture book: they are where the pixels are, and the pictures are as they were."""

import hashlib
import json

import numpy as np
import pytest
from PIL import Image, ImageDraw

from moco.data.picturebook import CLASSES, draw_book
from moco.data.picturebook.annotation import KEYPOINTS, PARTS, annotate, class_map, clipped, part_map
from moco.data.picturebook.drawing import draw_object, draw_picture
from moco.data.picturebook.scene import KINDS, draw_scene, scene_stream
from moco.data.picturebook.scene_folder import write_scenes
from moco.errors import DataError

SIZE = 64


def scene_of(index, kind="objects", size=SIZE):
    return draw_scene(KINDS[kind].weights, size, scene_stream(3, kind, index))


@pytest.mark.parametrize(
    ("count", "seed", "size", "digest"),
    [
        (200, 0, 64, "b5c6b582c242ed3ab4dffe162cd19cef8e39f65558abb77550fc0217f443755c"),
        (200, 1, 64, "0216d6d7d3433f178961b394323e3b141a37d1bf4572997ba37295363c9ed0ff"),
        (50, 7, 33, "ace30c0e4e0c1784b5c385f5ef3a23b675be9c36fff8dab1491baaa3d01adf90"),
    ],
)
def test_no_pixel_of_the_book_has_changed_since_it_has_annotations(count, seed, size, digest):
    book = draw_book(count, seed=seed, size=size)
    assert hashlib.sha256(book.images.tobytes() + book.labels.tobytes()).hexdigest() == digest


@pytest.mark.parametrize("name", CLASSES)
def test_the_object_of_a_picture_comes_with_the_same_pixels(name):
    pixels, placed = draw_object(name, SIZE, np.random.default_rng(5))
    np.testing.assert_array_equal(pixels, draw_picture(name, SIZE, np.random.default_rng(5)))
    found = annotate([placed], SIZE)[0]
    assert found.name == name
    assert found.area == np.count_nonzero(class_map([placed], CLASSES, SIZE))


def test_painting_the_objects_alone_changes_the_pixels_of_the_masks_alone():
    """The naive twin of a mask: where the picture with the object differs from that without it."""
    from moco.data.picturebook import drawing

    for index in range(8):
        backdrop = drawing.Backdrop(np.zeros((16, 16, 3), np.uint8), [0.0] * 3, [])
        _, objects = scene_of(index)
        white = [drawing.Placed(o.name, o.outlines, ((255, 255, 255),) * len(o.outlines), o.mirrored) for o in objects]
        drawn = backdrop.paint(white, SIZE, np.random.default_rng(0)).mean(axis=2) > 95
        np.testing.assert_array_equal(drawn, class_map(objects, CLASSES, SIZE) > 0)


def test_boxes_and_polygons_hold_the_mask_and_nothing_else():
    for index in range(12):
        _, objects = scene_of(index)
        for placed, found in zip(objects, annotate(objects, SIZE), strict=True):
            mask = class_map([placed], CLASSES, SIZE) > 0
            rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            own = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
            assert np.abs(np.array(found.box) - own).max() <= 1  # half a pixel, and a tip too thin for a pixel
            canvas = Image.new("1", (8 * SIZE, 8 * SIZE))
            for polygon in found.polygons:
                ImageDraw.Draw(canvas).polygon([8 * value for value in polygon], fill=1)
            filled = np.asarray(canvas).reshape(SIZE, 8, SIZE, 8).mean(axis=(1, 3)) >= 0.5
            assert (filled & mask).sum() / (filled | mask).sum() > 0.8


def test_objects_of_a_scene_share_no_box_and_stay_inside():
    shown = 0
    for index in range(40):
        _, objects = scene_of(index, "people")
        boxes = [found.box for found in annotate(objects, SIZE)]
        shown += len(boxes)
        for number, (left, top, right, bottom) in enumerate(boxes):
            assert 0 <= left < right <= SIZE
            assert 0 <= top < bottom <= SIZE
            others = boxes[:number]
            assert all(right <= o[0] or o[2] <= left or bottom <= o[1] or o[3] <= top for o in others)
    assert shown > 60


def test_what_reaches_out_of_the_picture_is_cut_to_it():
    assert clipped([(-2.0, -2.0), (2.0, -2.0), (2.0, 2.0), (-2.0, 2.0)], 4) == [(0, 0), (2.0, 0), (2.0, 2.0), (0, 2.0)]
    assert clipped([(5.0, 5.0), (6.0, 5.0), (6.0, 6.0)], 4) == []
    for seed in range(40):
        _, placed = draw_object("cat", SIZE, np.random.default_rng(seed))
        found = annotate([placed], SIZE)[0]
        values = np.array([*found.box, *(value for polygon in found.polygons for value in polygon)])
        assert values.min() >= 0
        assert values.max() <= SIZE


def persons(count=60):
    for index in range(count):
        _, objects = scene_of(index, "people")
        for each in objects:
            if each.name == "person":
                yield each, annotate([each], SIZE)[0]


def test_a_persons_points_lie_on_its_parts_and_its_left_is_on_our_right():
    seen = {True: 0, False: 0}
    for placed, found in persons():
        seen[placed.mirrored] += 1
        points = dict(zip(KEYPOINTS, found.keypoints, strict=True))
        parts = part_map([placed], SIZE)
        for side in ("left", "right"):
            for end, part in (("hand", "arm"), ("foot", "leg")):
                x, y, _ = points[f"{side}_{end}"]
                near = parts[max(0, int(y) - 2) : int(y) + 3, max(0, int(x) - 2) : int(x) + 3]
                assert PARTS.index(f"{side}_{part}") + 1 in near
        x, y, _ = points["head"]
        assert parts[int(y), int(x)] == PARTS.index("head") + 1
        assert points["left_shoulder"][0] > points["right_shoulder"][0]
    assert min(seen.values()) > 5


def test_parts_are_of_persons_alone_and_cover_them():
    for index in range(10):
        _, objects = scene_of(index, "people")
        person = CLASSES.index("person") + 1
        np.testing.assert_array_equal(part_map(objects, SIZE) > 0, class_map(objects, CLASSES, SIZE) == person)


def test_a_scene_is_the_same_in_any_folder_and_train_and_test_share_none(tmp_path):
    few = write_scenes(tmp_path / "few", train=3, test=2, size=48, seed=4)
    write_scenes(tmp_path / "more", train=5, test=4, size=48, seed=4)
    assert few["objects/train"]["scenes"] == 3
    for file in sorted((tmp_path / "few").glob("*/*/*.png")):
        assert file.read_bytes() == (tmp_path / "more" / file.relative_to(tmp_path / "few")).read_bytes()
    images = [
        file.read_bytes() for file in (tmp_path / "more").glob("*/t*[nt]/*.png") if "annot" not in file.parent.name
    ]
    assert len(set(images)) == len(images) == 3 * 9


def test_a_folder_that_is_there_is_left_alone(tmp_path):
    with pytest.raises(DataError, match="is there already"):
        write_scenes(tmp_path, train=1, test=1, size=32, seed=0)
    assert list(tmp_path.iterdir()) == []


def test_the_long_tail_is_one():
    counts = dict.fromkeys(CLASSES, 0)
    for index in range(400):
        _, objects = draw_scene(KINDS["long-tail"].weights, 32, scene_stream(0, "long-tail", index))
        for name in {each.name for each in objects}:
            counts[name] += 1
    found = sorted(counts.values())
    assert found[0] >= 1
    assert found[2] <= 12
    assert all(10 < count <= 100 for count in found[3:6])
    assert found[6] > 100


def test_the_files_say_what_the_scenes_show(tmp_path):
    write_scenes(tmp_path / "scenes", train=4, test=3, size=48, seed=1)
    content = json.loads((tmp_path / "scenes/people/keypoints_train.json").read_text())
    assert [each["name"] for each in content["categories"]] == ["person"]
    assert content["categories"][0]["keypoints"] == list(KEYPOINTS)
    tail = json.loads((tmp_path / "scenes/long-tail/instances_test.json").read_text())
    for image in tail["images"]:
        shown = {each["category_id"] for each in tail["annotations"] if each["image_id"] == image["id"]}
        assert shown.isdisjoint(image["neg_category_ids"])
        assert len(shown) + len(image["neg_category_ids"]) == len(CLASSES)
