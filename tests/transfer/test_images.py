"""From annotations to tensors: sizes, mirroring, what training takes."""

import numpy as np
import pytest
import torch
from PIL import Image

from moco.data.order import Sample
from moco.errors import DataError
from moco.transfer.annotations import open_annotations
from moco.transfer.detection.images import Reading, TrainImages, mirrored
from tests.transfer.drawn import HEIGHT, WIDTH, changed, draw_coco

READING = Reading(3, 128, masks=True, mirrored=(0, 2, 1))


def test_boxes_masks_and_keypoints_follow_the_size_of_the_image(tmp_path):
    image = open_annotations(draw_coco(tmp_path)).images[0]
    target = READING.target(image, (2 * HEIGHT, 2 * WIDTH))
    for box, mask, points in zip(target["boxes"], target["masks"], target["keypoints"], strict=True):
        rows, columns = np.nonzero(mask.numpy())
        assert [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] == box.tolist()
        assert points[1, :2].tolist() == box[:2].tolist()
    boxes = torch.tensor([each.box for each in image.instances])
    assert torch.equal(target["boxes"], 2 * boxes)


def test_the_shorter_side_is_that_which_is_stated_unless_the_longer_one_grows_too_long(tmp_path):
    image = open_annotations(draw_coco(tmp_path)).images[0]
    assert READING.tensor(image, 96).shape == (3, 96, 128)
    assert READING.tensor(image, 192).shape == (3, 96, 128)


def test_mirroring_twice_changes_nothing(tmp_path):
    image = open_annotations(draw_coco(tmp_path)).images[0]
    pixels, target = READING.tensor(image, HEIGHT), READING.target(image, (HEIGHT, WIDTH))
    once = mirrored(pixels, target, READING.mirrored)
    twice = mirrored(*once, READING.mirrored)
    assert torch.equal(twice[0], pixels)
    assert all(torch.equal(twice[1][name], value) for name, value in target.items())
    assert not torch.equal(once[1]["boxes"], target["boxes"])


def test_a_mirrored_left_ear_is_a_right_ear(tmp_path):
    image = open_annotations(draw_coco(tmp_path)).images[0]
    target = READING.target(image, (HEIGHT, WIDTH))
    _, turned = mirrored(torch.zeros(3, HEIGHT, WIDTH), target, READING.mirrored)
    left, right = target["keypoints"][:, 1], turned["keypoints"][:, 2]
    assert torch.equal(WIDTH - left[:, 0], right[:, 0])
    assert torch.equal(left[:, 1:], right[:, 1:])


def test_mirrored_masks_and_boxes_agree(tmp_path):
    image = open_annotations(draw_coco(tmp_path)).images[0]
    _, turned = mirrored(torch.zeros(3, HEIGHT, WIDTH), READING.target(image, (HEIGHT, WIDTH)), READING.mirrored)
    for box, mask in zip(turned["boxes"], turned["masks"], strict=True):
        columns = torch.nonzero(mask)[:, 1]
        assert [columns.min(), columns.max() + 1] == [box[0], box[2]]


def test_crowds_are_not_learnt_from(tmp_path):
    file = changed(draw_coco(tmp_path), lambda c: [a.update(iscrowd=1) for a in c["annotations"]])
    target = READING.target(open_annotations(file).images[0], (HEIGHT, WIDTH))
    assert {name: tuple(value.shape) for name, value in target.items()} == {
        "boxes": (0, 4),
        "labels": (0,),
        "masks": (0, HEIGHT, WIDTH),
        "keypoints": (0, 3, 3),
    }


def test_draws_follow_from_seed_step_and_position_alone(tmp_path):
    images = open_annotations(draw_coco(tmp_path)).images
    first, again = (TrainImages(images, READING, (24, 32, 40), seed=1) for _ in range(2))
    samples = [Sample(step, position, 0) for step in range(6) for position in range(2)]
    for _ in range(3):
        again[samples[0]]
    drawn = [first[sample][0] for sample in samples]
    assert all(torch.equal(one, again[sample][0]) for one, sample in zip(drawn, samples, strict=True))
    assert len({one.shape for one in drawn}) == 3
    assert len({one.flatten()[:50].sum().item() for one in drawn}) > 3  # mirrored or not


def test_an_image_of_another_size_than_its_annotations_is_refused(tmp_path):
    image = open_annotations(draw_coco(tmp_path)).images[0]
    Image.new("RGB", (HEIGHT, WIDTH)).save(image.path)
    with pytest.raises(DataError, match=f"has {HEIGHT}x{WIDTH} pixels upright, its annotations are of {WIDTH}x"):
        READING.tensor(image, 32)
