"""LVIS as a task: rare images come more often, 300 answers of any score are kept, figures by frequency."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter

import numpy as np
import pytest

from moco.encoder import SmallResNet
from moco.errors import DataError
from moco.transfer.annotations import open_annotations
from moco.transfer.detection.detection import Detection
from moco.transfer.detection.federated import read_federation
from moco.transfer.detection.lvis import LEAST_SCORE, Lvis
from tests.transfer.drawn import changed, draw_coco, settings

pytest.importorskip("faster_coco_eval")


def as_lvis(content):
    for category, frequency in zip(content["categories"], "rf", strict=True):
        category["frequency"] = frequency
    for image in content["images"]:
        image |= {"neg_category_ids": [], "not_exhaustive_category_ids": []}


@pytest.fixture
def task(tmp_path):
    train = open_annotations(changed(draw_coco(tmp_path, 6), as_lvis))
    file = changed(draw_coco(tmp_path, 4, seed=1, name="instances_test.json"), as_lvis)
    detector = settings(detections=300)
    options = {"detector": detector, "sides": (32,), "batch_size": 2}
    segmentation = Detection("instance-segmentation", train, open_annotations(file), **options)
    return Lvis(segmentation, read_federation(file))


def test_the_model_keeps_300_answers_of_low_scores(task):
    heads = task.model(SmallResNet(width=4)).roi_heads
    assert (heads.detections_per_img, heads.score_thresh) == (300, LEAST_SCORE)


def test_it_learns_and_scores_by_frequency(task):
    model = task.model(SmallResNet(width=4))
    batch = next(task.batches(seed=0, start=0))
    assert task.loss(model.train(), batch).item() > 0
    figures = task.score(model.eval())
    assert {"AP", "APr", "APf", "box_AP"} <= figures.keys()
    assert "APc" not in figures


def test_images_come_as_often_as_their_factors_say(task, monkeypatch):
    task.factors = np.array([1.0, 1.0, 1.0, 1.0, 1.0, 5.0])
    seen = Counter()
    inner = task.segmentation.train.images
    monkeypatch.setattr(
        "moco.transfer.detection.lvis.TrainImages.__getitem__",
        lambda self, sample: (seen.update([sample.image]), (0, 0))[1],
    )
    assert len(inner) == 6
    list(itertools.islice(task.batches(seed=0, start=0), 50))
    assert seen[5] == 5 * seen[0] == 50


def test_files_of_other_categories_are_refused(task):
    other = dataclasses.replace(task.federation, frequencies=("r",))
    with pytest.raises(DataError, match="one version"):
        Lvis(task.segmentation, other)
