"""AP by faster-coco-eval beside pycocotools, and on the truth itself."""

import contextlib
import dataclasses
import io

import numpy as np
import pytest

from moco.transfer.annotations import open_annotations
from moco.transfer.annotations.masks import mask_of, runs_of
from moco.transfer.dense_pose.scores import box_overlaps
from moco.transfer.detection.average_precision import (
    Found,
    average_precision,
    coco_answers,
    coco_truth,
    precision_by_similarity,
)
from tests.transfer.drawn import HEIGHT, WIDTH, changed, draw_coco

KINDS = ("bbox", "segm", "keypoints")


def answers(annotations, generator=None):
    """The truth as answers; with a generator, moved at random, some of another class, and some twice."""
    found = []
    for image in annotations.images:
        boxes, labels, runs, points = [], [], [], []
        for each in image.instances:
            for _ in range(1 if generator is None else int(generator.integers(3))):
                move = np.zeros(2) if generator is None else generator.normal(0, 2, 2)
                boxes.append(np.array(each.box) + np.tile(move, 2))
                other = generator is not None and generator.random() < 0.2
                labels.append(each.category if not other else 3 - each.category)
                polygons = [polygon + move for polygon in each.outline]
                runs.append(runs_of(mask_of(polygons, HEIGHT, WIDTH, size=(HEIGHT, WIDTH))))
                points.append(each.keypoints + np.array([*move, 0]))
        count = len(boxes)
        scores = np.ones(count) if generator is None else generator.random(count).round(2)
        shaped = np.array(boxes).reshape(-1, 4), np.array(labels, dtype=int), scores
        found.append(Found(*shaped, runs, np.array(points).reshape(-1, 3, 3)))
    return found


@pytest.fixture
def annotations(tmp_path):
    def crowd(content):
        content["annotations"][0]["iscrowd"] = 1

    return open_annotations(changed(draw_coco(tmp_path, 12), crowd))


@pytest.mark.parametrize("kind", KINDS)
def test_the_truth_has_ap_100(annotations, kind):
    figures = average_precision(annotations, answers(annotations), kind)
    assert figures["AP"] == pytest.approx(100)
    assert figures["AP/red"] == pytest.approx(100)


def test_with_the_overlap_as_similarity_ap_is_that_of_the_boxes(annotations):
    """Crowds and answers that are not in the order of their scores included."""
    images = tuple(
        dataclasses.replace(image, instances=tuple(dataclasses.replace(each, category=1) for each in image.instances))
        for image in annotations.images
    )
    truth = dataclasses.replace(annotations, images=images, categories=("thing",))
    found = [
        dataclasses.replace(each, labels=np.ones_like(each.labels)) for each in answers(truth, np.random.default_rng(5))
    ]
    overlaps = [box_overlaps(*pair) for pair in zip(found, images, strict=True)]
    expected = average_precision(truth, found, "bbox")
    del expected["APs"]
    assert 5 < expected["AP"] < 95
    assert precision_by_similarity(truth, found, overlaps) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_ap_equals_that_of_pycocotools(annotations, kind):
    found = answers(annotations, np.random.default_rng(3))
    figures = average_precision(annotations, found, kind)
    expected = by_pycocotools(annotations, found, kind)
    assert 5 < figures["AP"] < 95
    for name, value in expected.items():
        assert figures.get(name, -100) == pytest.approx(100 * value, abs=1e-2 * 1e-2), name  # 1e-4 of 100 points


def by_pycocotools(annotations, found, kind):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    flat = [answer for number, each in enumerate(found, start=1) for answer in coco_answers(number, each, kind)]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = coco_truth(annotations, kind)
        truth.createIndex()
        given = COCO()
        truth.dataset["info"] = {}
        given = truth.loadRes(flat)
        result = COCOeval(truth, given, kind)
        if kind == "keypoints":
            result.params.kpt_oks_sigmas = np.full(3, 0.05)
        result.evaluate()
        result.accumulate()
        result.summarize()
    names = ("AP", "AP50", "AP75", "APm", "APl") if kind == "keypoints" else ("AP", "AP50", "AP75", "APs", "APm", "APl")
    return dict(zip(names, result.stats, strict=False))


def test_no_answer_at_all_has_ap_0(annotations):
    nothing = Found(np.zeros((0, 4)), np.zeros(0, dtype=int), np.zeros(0))
    figures = average_precision(annotations, [nothing] * len(annotations.images), "bbox")
    assert figures["AP"] == 0


def test_crowds_are_neither_missed_nor_wrongly_found(annotations):
    kept = [dataclasses.replace(i, instances=tuple(o for o in i.instances if not o.crowd)) for i in annotations.images]
    without = answers(dataclasses.replace(annotations, images=tuple(kept)))
    assert average_precision(annotations, without, "bbox")["AP"] == pytest.approx(100)
    assert average_precision(annotations, answers(annotations), "bbox")["AP"] == pytest.approx(100)


def test_what_no_object_can_show_is_left_out(annotations):
    figures = average_precision(annotations, answers(annotations), "bbox")
    assert "APl" not in figures
    assert {"AP", "AP50", "AP75", "APs", "AP/red", "AP/green"} == set(figures)
