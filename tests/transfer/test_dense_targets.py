"""What the surface head learns from, against naive twins."""

import dataclasses

import numpy as np
import pytest
import torch

from moco.data.order import Sample
from moco.errors import DataError
from moco.transfer.detection.images import Reading, TrainImages
from moco.transfer.networks.dense_targets import (
    NO_POINT,
    joined,
    learnt_regions,
    region_truth,
    silhouettes_in,
    surface_target,
)
from tests.transfer.drawn_people import make_people

pytest.importorskip("faster_coco_eval")


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    return make_people(tmp_path_factory.mktemp("people"))


def naive_silhouette(region, frame, silhouette, size):
    """Cell by cell: the pixel of the silhouette in which the cell's middle lies."""
    found = np.zeros((size, size), np.int64)
    for row in range(size):
        for column in range(size):
            x = region[0] + (column + 0.5) / size * (region[2] - region[0])
            y = region[1] + (row + 0.5) / size * (region[3] - region[1])
            i = int(np.floor((x - frame[0]) / (frame[2] - frame[0]) * 256))
            j = int(np.floor((y - frame[1]) / (frame[3] - frame[1]) * 256))
            if 0 <= i < 256 and 0 <= j < 256:
                found[row, column] = silhouette[j, i]
    return found


def test_silhouettes_equal_the_naive_twin():
    generator = np.random.default_rng(0)
    silhouettes = generator.integers(0, 2, (3, 256, 256), dtype=np.uint8)
    corners = generator.uniform(0, 20, (2, 3, 2))
    regions, frames = (np.concatenate([each, each + generator.uniform(8, 30, (3, 2))], axis=1) for each in corners)
    tensors = [torch.from_numpy(each).float() for each in (regions, frames)]
    found = silhouettes_in(*tensors, torch.from_numpy(silhouettes), 14).numpy()
    twins = [naive_silhouette(*each, 14) for each in zip(regions, frames, silhouettes, strict=True)]
    assert (found != np.array(twins)).mean() < 0.002, "a middle on an edge may round to either side"


def test_points_of_a_region_equal_the_naive_twin(people):
    image = people.people.train.images[0]
    target = people.people.reading.target(image, (96, 128))  # twice the image's size
    region = torch.tensor([[10.0, 12.0, 40.0, 50.0]])
    truth = region_truth(region, torch.tensor([0]), target, 8)
    surface = image.instances[0].surface
    for index, (x, y) in enumerate(surface.points.tolist()):
        place = (2 * x - 10) / 30, (2 * y - 12) / 38
        if all(0 <= each <= 1 for each in place):
            assert truth.points[0, index].tolist() == pytest.approx(place, abs=1e-5)
            assert truth.parts[0, index] == surface.parts[index]
            assert truth.uv[0, index].tolist() == surface.uv[index].tolist()
        else:
            assert truth.parts[0, index] == NO_POINT
    assert (truth.parts == NO_POINT).any()
    assert (truth.parts != NO_POINT).any()


def test_regions_learn_from_persons_with_points_alone(people):
    target = people.people.reading.target(people.people.train.images[0], (48, 64))
    exact, near = target["boxes"][[0]], target["boxes"][[0]] + torch.tensor([1.0, 0, 1, 0])
    regions = torch.cat([exact, near, exact + 8, target["boxes"][[1]]])
    assert learnt_regions(regions, torch.tensor([0, 0, 0, 1]), target).tolist() == [True, True, False, False]


def test_an_image_without_persons_has_nothing_to_learn():
    target = {"boxes": torch.zeros(0, 4), **surface_target([], np.ones(2))}
    assert not learnt_regions(torch.rand(3, 4), torch.zeros(3, dtype=torch.int64), target).any()


def test_joined_rows_keep_their_points(people):
    reading = people.people.reading
    truths = []
    for image in people.people.train.images[:2]:
        target = reading.target(image, (48, 64))
        target = {**target, "parts": target["parts"][:, : 5 + 5 * len(truths)]}
        target |= {name: target[name][:, : target["parts"].shape[1]] for name in ("points", "uv")}
        truths.append(region_truth(target["boxes"][:1], torch.tensor([0]), target, 4))
    whole = joined(truths)
    assert whole.parts.shape == (2, 10)
    assert torch.equal(whole.parts[0, :5], truths[0].parts[0])
    assert (whole.parts[0, 5:] == NO_POINT).all()
    assert torch.equal(whole.uv[1], truths[1].uv[0])
    assert torch.equal(whole.silhouettes[1], truths[1].silhouettes[0])


def test_no_image_is_mirrored(people):
    images = people.people.train.images
    expected = [people.people.reading.tensor(image, 48) for image in images]
    for _, (pixels, _) in zip(range(4), people.batches(seed=0, start=0), strict=False):
        assert all(any(torch.equal(each, known) for known in expected) for each in pixels)


def test_run_lengths_that_are_none_are_one_line_that_names_the_image(people):
    image = people.people.train.images[1]
    broken = ({"size": [256, 256], "counts": "zzzz"},)
    surface = dataclasses.replace(image.instances[0].surface, silhouettes=broken)
    wrong = dataclasses.replace(image, instances=(dataclasses.replace(image.instances[0], surface=surface),))
    images = TrainImages((wrong,), people.people.reading, (48,), seed=0)
    with pytest.raises(DataError, match=r"p0-2.png: run lengths that cannot be read .* correct the annotation file$"):
        images[Sample(0, 0, 0)]


def test_other_tasks_have_no_surface_in_their_targets(people):
    assert set(Reading(3, 64).target(people.people.train.images[0], (48, 64))) == {"boxes", "labels"}
