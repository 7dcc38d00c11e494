"""Scenes that the package draws are read as anyone's annotations: every file of every kind, none bad."""

import numpy as np
import pytest

from moco.commands.scenes import scenes
from moco.data.picturebook.annotation import KEYPOINTS
from moco.errors import ConfigError
from moco.transfer.annotations import open_annotations
from moco.transfer.annotations.masks import mask_of
from moco.transfer.annotations.surface import SIDE
from moco.transfer.detection.federated import read_federation
from moco.transfer.detection.images import Reading
from moco.transfer.label_maps.reading import open_label_maps

pytest.importorskip("faster_coco_eval")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn") / "scenes"
    return scenes(str(folder), train=6, test=4, size=64, seed=2)


def test_what_was_drawn_is_counted(drawn):
    assert set(drawn.counts) == {
        f"{kind}/{part}" for kind in ("objects", "people", "long-tail") for part in ("train", "test")
    }
    assert drawn.as_dict()["counts"]["objects/train"]["scenes"] == 6
    assert "moco transfer detection" in str(drawn)


@pytest.mark.parametrize(
    "file", ["objects/instances", "people/instances", "people/keypoints", "people/densepose", "long-tail/instances"]
)
def test_boxes_masks_and_label_maps_agree(drawn, file):
    kind = file.partition("/")[0]
    found = open_annotations(drawn.path / f"{file}_train.json")
    maps = open_label_maps(drawn.path / kind / "train", use="train", void=None)
    assert found.problems == ()
    assert maps.problems == ()
    assert [pair[0] for pair in maps.pairs] == [image.path for image in found.images]
    for number, image in enumerate(found.images):
        labels = maps.truth(number)
        for instance in image.instances:
            name = found.categories[instance.category - 1]
            mask = mask_of(instance.outline, 64, 64, size=(64, 64)) > 0
            same = labels == maps.classes.index(name)
            left, top, right, bottom = (*np.floor(instance.box[:2]).astype(int), *np.ceil(instance.box[2:]).astype(int))
            inside = np.zeros_like(same)
            inside[top:bottom, left:right] = True
            assert (mask & same & inside).sum() / (mask | (same & inside)).sum() > 0.8
            assert abs(instance.area - (same & inside).sum()) <= 3


def test_a_mirrored_persons_left_hand_is_its_right_one(drawn):
    found = open_annotations(drawn.path / "people/keypoints_train.json")
    assert found.skeleton.names == KEYPOINTS
    partners = {KEYPOINTS[i]: KEYPOINTS[j] for i, j in enumerate(found.skeleton.mirrored)}
    assert partners["left_hand"] == "right_hand"
    assert partners["head"] == "head"
    reading = Reading(3, 64, mirrored=tuple(found.skeleton.mirrored))
    assert any(reading.learnable(each) for image in found.images for each in image.instances)


@pytest.mark.parametrize("part", ["train", "test"])
def test_every_person_has_a_surface_whose_silhouette_is_its_mask(drawn, part):
    found = open_annotations(drawn.path / f"people/densepose_{part}.json")
    assert found.problems == ()
    persons = [each for image in found.images for each in image.instances]
    assert persons
    for each in persons:
        assert each.surface is not None
        assert each.surface.frame == pytest.approx(each.box)
        shown = np.max([mask_of(runs, SIDE, SIDE, size=(SIDE, SIDE)) for runs in each.surface.silhouettes], axis=0)
        left, top, right, bottom = each.box
        assert shown.mean() * (right - left) * (bottom - top) == pytest.approx(each.area, rel=0.1)


def test_the_long_tail_has_what_lvis_has(drawn):
    federation = read_federation(drawn.path / "long-tail/instances_test.json")
    assert set(federation.frequencies) <= set("rcf")
    assert all(negative for negative in federation.negative)


@pytest.mark.parametrize(("name", "value"), [("train", 0), ("size", 8), ("seed", -1)])
def test_numbers_out_of_range_write_nothing(tmp_path, name, value):
    with pytest.raises(ConfigError, match=f"{name}={value}"):
        scenes(str(tmp_path / "out"), **{name: value})
    assert list(tmp_path.iterdir()) == []
