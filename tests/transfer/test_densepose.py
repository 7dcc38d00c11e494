"""Dense pose as a task: its figures, what it refuses, resuming."""

import dataclasses
import json
import os
import signal

import numpy as np
import pytest
import torch
from PIL import Image

import moco
from moco.encoder import SmallResNet, build_backbone
from moco.errors import ArchitectureError, ConfigError, DataError
from moco.normalization import IMAGENET
from moco.transfer.dense_pose.densepose import DensePose
from moco.transfer.dense_pose.scores import SurfaceScores, matches
from moco.transfer.detection.average_precision import Found
from moco.transfer.detection.detection import Detection
from moco.transfer.fine_tuning.loop import FineTuning
from moco.transfer.fine_tuning.options import Options
from moco.transfer.fine_tuning.scale import SMALL_DENSEPOSE
from moco.transfer.fine_tuning.schedule import Schedule
from moco.transfer.networks.dense_head import CHANNELS
from tests.transfer.drawn import changed, draw_coco, settings
from tests.transfer.drawn_people import LOWER, UPPER, draw_people, geodesics, make_people, write_geodesics

pytest.importorskip("faster_coco_eval")
SIDE = 32


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    return make_people(tmp_path_factory.mktemp("people"))


@pytest.fixture(scope="module")
def distances(tmp_path_factory):
    return geodesics(tmp_path_factory.mktemp("distances"))


def true_surface(parts=(UPPER, LOWER)):
    """What the drawn persons look like: linear maps, so that reading between cells is exact."""
    answers = torch.zeros(sum(CHANNELS), SIDE, SIDE)
    middles = (torch.arange(SIDE) + 0.5) / SIDE
    answers[1] = 1  # a person everywhere
    for part, sign, start in zip(parts, (-1, 1), (0.0, 1.0), strict=True):
        answers[2 + part] = 10 + sign * (middles[:, None] - 0.5)
        answers[2 + 25 + part] = middles[None]
        answers[2 + 50 + part] = 2 * middles[:, None] - start
    return answers


def told(instances, surfaces, scores=None):
    """These persons as answers."""
    boxes = np.array([each.box for each in instances], dtype=np.float32).reshape(-1, 4)
    scores = np.linspace(0.9, 0.5, len(boxes)) if scores is None else np.array(scores)
    stacked = torch.stack(surfaces) if surfaces else torch.zeros(0, sum(CHANNELS), SIDE, SIDE)
    return Found(boxes, np.ones(len(boxes), np.int64), scores), stacked


def figures(truth, distances, answers):
    scores = SurfaceScores(truth, distances)
    for found, surfaces in answers:
        scores.add(found, surfaces)
    return scores.figures()


def the_truth(truth):
    return [told(image.instances, [true_surface()] * len(image.instances)) for image in truth.images]


def test_the_truth_scores_100(people, distances):
    found = figures(people.people.test, distances, the_truth(people.people.test))
    assert found.pop("uv_error_matched") == pytest.approx(0, abs=1e-3)
    assert {"GPS_AP", "GPS_AP50", "GPS_AP75", "part_accuracy", "persons_found", "box_AP"} <= set(found)
    assert all(value == pytest.approx(100) for value in found.values()), found


def test_without_distances_no_figure_is_called_gps(people):
    found = figures(people.people.test, None, the_truth(people.people.test))
    assert not [name for name in found if "GPS" in name]
    assert found["part_accuracy"] == 100


def test_similarity_equals_the_naive_twin(people, distances):
    surface = people.people.test.images[0].instances[0].surface
    generator = np.random.default_rng(0)
    parts, uv = generator.integers(0, 25, 20), generator.uniform(0, 1, (20, 2)).astype(np.float32)

    def vertex(part, place):
        own = [index for index in range(len(distances.parts)) if distances.parts[index] == part]
        return min(own, key=lambda index: np.hypot(*(distances.uv[index] - place)))

    each = []
    for true_part, true_uv, part, place in zip(surface.parts, surface.uv, parts, uv, strict=True):
        apart = np.inf if part == 0 else distances.distances[vertex(true_part, true_uv), vertex(part, place)]
        each.append(np.exp(-(apart**2) / (2 * 0.255**2)))
    said = distances.similarity(distances.nearest(surface.parts, surface.uv), distances.nearest(parts, uv))
    assert said == pytest.approx(np.mean(each), rel=1e-6)


def test_seams_lead_to_the_mesh_s_own_vertex(tmp_path, distances):
    count = len(distances.parts)
    merged = np.arange(count) // 2
    square = np.ascontiguousarray(distances.distances[::2, ::2])
    from moco.transfer.dense_pose.geodesic import read_geodesics

    found = read_geodesics(write_geodesics(tmp_path / "seams.npz", vertex=merged, distances=square))
    assert found.nearest(np.array([1, 0]), found.uv[[3, 3]]).tolist() == [1, -1]


def test_wrong_parts_cost_accuracy_and_similarity(people, distances):
    truth = people.people.test
    answers = [told(image.instances, [true_surface((UPPER, 5))] * len(image.instances)) for image in truth.images]
    found = figures(truth, distances, answers)
    lower = np.concatenate([each.surface.parts for i in truth.images for each in i.instances if each.surface]) == LOWER
    assert found["part_accuracy"] == pytest.approx(100 * (1 - lower.mean()))
    assert found["part_accuracy_matched"] == found["part_accuracy"]
    assert found["GPS_AP75"] == 0
    assert found["box_AP"] == pytest.approx(100)


def test_a_missed_person_has_no_point_right(people, distances):
    truth = people.people.test
    answers = the_truth(truth)
    answers[1] = told([], [])
    found = figures(truth, distances, answers)
    assert found["persons_found"] == pytest.approx(100 * 2 / 3)
    assert found["part_accuracy"] == pytest.approx(100 * 2 / 3)
    assert found["part_accuracy_matched"] == 100
    assert found["GPS_AP"] < 70


def test_an_answer_on_a_person_without_points_counts_nothing(people, distances):
    truth = people.people.test
    assert truth.images[0].instances[1].surface is None
    known = the_truth(truth)
    first = truth.images[0].instances
    nowhere = dataclasses.replace(first[0], box=(30.0, 0.0, 46.0, 18.0))
    for extra, expected in ((first[1], 100), (nowhere, 75)):
        answers = [told([*first[:1], extra], [true_surface()] * 2, [0.8, 0.9]), *known[1:]]
        assert figures(truth, distances, answers)["GPS_AP50"] == pytest.approx(expected, abs=1), extra


def test_images_without_points_are_not_judged(people, distances):
    truth = people.people.test
    bare = dataclasses.replace(truth.images[0], instances=())
    whole = dataclasses.replace(truth, images=(*truth.images, bare))
    wrong = told(truth.images[0].instances, [true_surface()] * 2, [0.99, 0.98])
    found = figures(whole, distances, [*the_truth(truth), wrong])
    assert found["GPS_AP"] == 100
    assert found["box_AP"] < 100


def test_answers_take_persons_by_score():
    overlaps = np.array([[0.6, 0.55], [0.9, 0.4], [0.7, 0.51], [0.8, 0.8]])
    assert matches(overlaps, np.array([0.9, 0.8, 0.7, 0.1]), [0, 1]) == {0: 0, 1: 2}
    assert matches(overlaps, np.array([0.9, 0.8, 0.7, 0.1]), [1]) == {1: 0}


def test_a_model_is_tested_and_drawn(people, tmp_path):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = people.model(build_backbone("resnet_tiny", image_size=32).module)
        found = people.score(model)
    assert people.main_score in found
    people.picture({"one": model, "two": model}, tmp_path / "people.png")
    with Image.open(tmp_path / "people.png") as picture:
        assert picture.height > 3 * 200


def test_resume_is_bitwise_identical(people, tmp_path, monkeypatch):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        backbone = build_backbone("resnet_tiny", image_size=32).module

    def run(checkpoint=None):
        options = Options(precise=1, quiet=True)
        schedule = Schedule(3, 0, (2,), 0.002, batch_size=2)
        return FineTuning(people, backbone, schedule=schedule, seed=0, options=options, checkpoint=checkpoint)

    whole, file, step = run(), tmp_path / "last.pt", FineTuning._step
    whole.run()

    def stopped(self, batch):
        step(self, batch)
        os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(FineTuning, "_step", stopped)
        with pytest.raises(KeyboardInterrupt):
            run(file).run()
    resumed = run(file)
    assert resumed.progress.iteration == 1
    resumed.run()
    first, second = whole.model.state_dict(), resumed.model.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert resumed.progress.scores == whole.progress.scores


def test_the_command_measures_gps_where_distances_are_given(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "moco.transfer.fine_tuning.scale.SMALL_DENSEPOSE", dataclasses.replace(SMALL_DENSEPOSE, precise=1)
    )
    train = draw_people(tmp_path, 4)
    test = draw_people(tmp_path, 2, seed=1, name="people_test.json")
    options = {"iterations": 1, "image_size": 32, "batch_size": 2, "width": 8, "rois": 4, "quiet": True}
    found = moco.transfer(
        "densepose",
        backbone=SmallResNet(width=4),
        preprocessing=moco.Preprocessing(32, *IMAGENET),
        train=str(train),
        test=str(test),
        geodesics=str(write_geodesics(tmp_path / "distances.npz")),
        out=str(tmp_path / "out"),
        initialisations=("moco",),
        **options,
    )
    assert found.main_score == "GPS_AP"
    assert "part_accuracy" in found.row("moco").scores[0]
    written = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert written["settings"]["geodesics"]["vertices"] == 24 * 16
    assert (tmp_path / "out" / "densepose.png").is_file()
    with pytest.raises(ConfigError, match="geodesics=x would change nothing in detection"):
        moco.transfer("detection", backbone="b", train="t", test="t", out="o", geodesics="x")


def test_what_it_cannot_learn_from_is_refused(people, tmp_path):
    from moco.transfer.annotations import open_annotations

    def task(file):
        options = {"detector": settings(), "sides": (32,), "batch_size": 2}
        return DensePose(Detection("densepose", open_annotations(file), people.people.test, **options))

    def without(content):
        for entry in content["annotations"]:
            for name in [name for name in entry if name.startswith("dp_")]:
                del entry[name]

    with pytest.raises(DataError, match="no person whose surface is annotated"):
        task(changed(draw_people(tmp_path), without))
    with pytest.raises(DataError, match="categories"):
        task(changed(draw_coco(tmp_path), lambda content: content["categories"][0].update(name="person")))
    with pytest.raises(ArchitectureError, match="with architecture c4"):
        make_people(tmp_path, architecture="c4").model(build_backbone("resnet_tiny", image_size=32).module)
