"""LVIS average precision: equal to plain loops; what nobody annotated is no error."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from moco.errors import DataError
from moco.transfer.annotations import AnnotatedImage, Annotations, Instance
from moco.transfer.detection.average_precision import Found
from moco.transfer.detection.federated import Federation, federated_precision, read_federation
from tests.reference import federated_precision as reference

pytest.importorskip("faster_coco_eval")
CATEGORIES = 4
FREQUENCIES = ("r", "c", "c", "f")


def box(generator):
    left, top = generator.integers(0, 60, 2)
    width, height = generator.integers(8, 40, 2)
    return tuple(map(float, (left, top, left + width, top + height)))


@pytest.fixture
def case():
    """Truth, federation and answers: moved true boxes, and others of any category."""
    generator = np.random.default_rng(0)
    truth, negative, partly, found = [], [], [], []
    for _ in range(12):
        own = [(box(generator), int(generator.integers(1, CATEGORIES + 1))) for _ in range(3)]
        shown = {label for _, label in own}
        absent = set(range(1, CATEGORIES + 1)) - shown
        negative.append({label for label in absent if generator.random() < 0.5})
        partly.append({label for label in shown if generator.random() < 0.4})
        moved = [(tuple(np.array(b) + generator.integers(0, 3)), c, float(generator.random())) for b, c in own]
        wrong = [
            (box(generator), int(generator.integers(1, CATEGORIES + 1)), float(generator.random())) for _ in range(4)
        ]
        truth.append(own)
        found.append(moved + wrong)
    return truth, negative, partly, found


def given(truth, negative, partly, found):
    images = tuple(
        AnnotatedImage(Path("x"), 110, 110, tuple(Instance(b, c, False, (b[2] - b[0]) * (b[3] - b[1])) for b, c in own))
        for own in truth
    )
    annotations = Annotations("x", images, tuple("abcd"))
    answers = [
        Found(*(np.array([answer[place] for answer in each], dtype) for place, dtype in enumerate((float, int, float))))
        for each in found
    ]
    federation = Federation(FREQUENCIES, tuple(map(frozenset, negative)), tuple(map(frozenset, partly)))
    return annotations, federation, answers


def test_it_equals_plain_loops(case):
    figures = federated_precision(*given(*case), "bbox")
    overlaps = np.linspace(0.5, 0.95, 10)
    each = {
        label: [reference.average_precision(*case, category=label, least=least) for least in overlaps]
        for label in range(1, CATEGORIES + 1)
    }
    for label, name in enumerate("abcd", start=1):
        assert figures[f"AP/{name}"] == pytest.approx(100 * np.mean(each[label]), abs=1e-4)
    assert figures["APr"] == pytest.approx(figures["AP/a"])
    assert figures["APc"] == pytest.approx((figures["AP/b"] + figures["AP/c"]) / 2)
    assert figures["APf"] == pytest.approx(figures["AP/d"])
    assert figures["AP50"] == pytest.approx(100 * np.mean([values[0] for values in each.values()]), abs=1e-4)


def test_the_truth_scores_100(case):
    truth, negative, partly, _ = case
    figures = federated_precision(
        *given(truth, negative, partly, [[(*pair, 0.9) for pair in own] for own in truth]), "bbox"
    )
    assert [figures[name] for name in ("AP", "AP50", "APr", "APc", "APf")] == pytest.approx([100] * 5)


def test_only_stated_absence_makes_an_answer_wrong(case):
    truth, negative, _, _ = case
    right = [[(*pair, 0.5) for pair in own] for own in truth]
    nothing = [set() for _ in truth]
    sure = [
        own + [((1.0, 1.0, 9.0, 9.0), label, 0.9) for label in range(1, 5) if label not in {c for _, c in pairs}]
        for own, pairs in zip(right, truth, strict=True)
    ]
    assert federated_precision(*given(truth, nothing, nothing, sure), "bbox")["AP"] == pytest.approx(100)
    assert federated_precision(*given(truth, negative, nothing, sure), "bbox")["AP"] < 99


def test_the_300_best_answers_count(case):
    truth, negative, partly, _ = case
    flood = [[((1.0, 1.0, 9.0, 9.0), 1, 0.9)] * 300 + [(*pair, 0.1) for pair in own] for own in truth]
    assert federated_precision(*given(truth, negative, partly, flood), "bbox")["AP"] == 0


def test_no_answers_score_0(case):
    annotations, federation, answers = given(*case)
    empty = [
        dataclasses.replace(each, boxes=each.boxes[:0], labels=each.labels[:0], scores=each.scores[:0])
        for each in answers
    ]
    assert federated_precision(annotations, federation, empty, "bbox")["AP"] == 0


CONTENT = {
    "images": [{"id": 5, "neg_category_ids": [9], "not_exhaustive_category_ids": [3]}],
    "categories": [{"id": 9, "name": "b", "frequency": "f"}, {"id": 3, "name": "a", "frequency": "r"}],
}


def test_a_file_is_read_in_the_order_of_its_categories(tmp_path):
    (tmp_path / "lvis.json").write_text(json.dumps(CONTENT))
    found = read_federation(tmp_path / "lvis.json")
    assert found == Federation(("r", "f"), (frozenset({2}),), (frozenset({1}),))


@pytest.mark.parametrize(("part", "name"), [("images", "neg_category_ids"), ("categories", "frequency")])
def test_a_file_that_is_not_lvis_is_refused(tmp_path, part, name):
    content = json.loads(json.dumps(CONTENT))
    del content[part][0][name]
    (tmp_path / "coco.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="LVIS"):
        read_federation(tmp_path / "coco.json")
