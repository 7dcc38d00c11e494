"""DensePose-COCO's entries: where their points lie in the image, and what becomes of bad ones."""

import re

import numpy as np
import pytest

from moco.transfer.annotations import open_annotations
from tests.transfer.drawn import changed
from tests.transfer.drawn_people import LOWER, UPPER, draw_people

pytest.importorskip("faster_coco_eval")


def first_person(file):
    return open_annotations(file).images[0].instances[0]


def with_first(file, **entries):
    """The file with other entries of its first person; None takes one out."""

    def change(content):
        entry = content["annotations"][0]
        entry |= entries
        for name in [name for name, value in entries.items() if value is None]:
            del entry[name]

    return changed(file, change)


def test_points_run_from_0_to_255_over_the_box(tmp_path):
    corners = {"dp_x": [0, 255], "dp_y": [0, 255], "dp_I": [1, 24], "dp_U": [0, 1], "dp_V": [0.5, 0.25]}
    person = first_person(with_first(draw_people(tmp_path), bbox=[10, 5, 20, 30], **corners))
    assert person.surface.points.tolist() == [[10, 5], [30, 35]]
    assert person.surface.parts.tolist() == [1, 24]
    assert person.surface.uv.tolist() == [[0, 0.5], [1, 0.25]]


def test_points_stay_where_they_are_when_the_box_is_cut_to_the_image(tmp_path):
    corners = {"dp_x": [0, 255], "dp_y": [0, 255], "dp_I": [1, 1], "dp_U": [0, 0], "dp_V": [0, 0]}
    person = first_person(with_first(draw_people(tmp_path), bbox=[-10, -10, 40, 40], **corners))
    assert person.box == (0, 0, 30, 30)
    assert person.surface.points.tolist() == [[-10, -10], [30, 30]]
    assert person.surface.frame == (-10, -10, 30, 30)


def test_points_of_the_background_are_left_out(tmp_path):
    entries = {"dp_x": [1, 2, 3], "dp_y": [1, 2, 3], "dp_I": [0, 5, 0], "dp_U": [0, 0.5, 0], "dp_V": [0, 0, 0]}
    assert first_person(with_first(draw_people(tmp_path), **entries)).surface.parts.tolist() == [5]


def test_one_mask_of_the_whole_person_will_do(tmp_path):
    counts = {"size": [256, 256], "counts": [256 * 100, 256 * 156]}
    assert len(first_person(with_first(draw_people(tmp_path), dp_masks=counts)).surface.silhouettes) == 1


def test_persons_without_points_have_no_surface(tmp_path):
    image = open_annotations(draw_people(tmp_path)).images[0]
    assert [each.surface is None for each in image.instances] == [False, True]
    assert set(np.unique(image.instances[0].surface.parts)) == {UPPER, LOWER}


BAD = {
    "missing": ({"dp_U": None}, "no dp_U beside the other dp_ entries"),
    "no masks": ({"dp_masks": None}, "no dp_masks beside"),
    "lengths": ({"dp_x": [1.0]}, "of 1, 20, 20, 20, 20 values, expected equally many"),
    "nested": ({"dp_x": [[1.0]] * 20}, "values, expected equally many"),
    "words": ({"dp_x": ["a"] * 20}, "no lists of numbers"),
    "outside": ({"dp_x": [300.0] * 20}, "dp_x 300, expected 0 to 255"),
    "not a number": ({"dp_U": [float("nan")] * 20}, "dp_U nan, expected 0 to 1"),
    "part": ({"dp_I": [25] * 20}, "dp_I 25, expected 0 to 24"),
    "half a part": ({"dp_I": [1.5] * 20}, "dp_I 1.5, expected whole numbers"),
    "background alone": ({"dp_I": [0] * 20}, "no point on a part"),
    "empty masks": ({"dp_masks": [[], []]}, "dp_masks without a mask"),
    "size of masks": ({"dp_masks": [{"size": [5, 5], "counts": [25]}]}, r"expected \[256, 256\]"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_surface_is_one_line_and_the_person_stays(tmp_path, name):
    change, said = BAD[name]
    found = open_annotations(with_first(draw_people(tmp_path), **change))
    assert found.images[0].instances[0].surface is None
    assert len(found.images[0].instances) == 2
    assert len(found.problems) == 1
    assert re.search(said, found.problems[0])
