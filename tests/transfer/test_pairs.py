"""Crops: image and label map stay together at every scale, place and side."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moco.data.order import Sample
from moco.transfer.label_maps.mean_iou import VOID
from moco.transfer.label_maps.reading import open_label_maps
from moco.transfer.semantic.pairs import TrainPairs, random_crop
from tests.transfer.label_folders import COLORS, colored, stripes, write_annot

FILL = (1, 2, 3)
UNIT = st.floats(0, 1, exclude_max=True, width=32)


@settings(max_examples=40, deadline=None)
@given(st.tuples(UNIT, UNIT, UNIT, UNIT), st.integers(32, 90))
def test_colors_and_labels_are_of_the_same_pixels(drawn, crop):
    labels = stripes(2)
    image, truth = random_crop(colored(labels), labels, crop=crop, fill=FILL, drawn=list(drawn))
    assert image.shape == (3, crop, crop)
    inside = truth != VOID
    nearest = (
        (image.permute(1, 2, 0)[:, :, None].float() - torch.from_numpy(COLORS).float()).square().sum(-1).argmin(-1)
    )
    assert (nearest == truth)[inside].float().mean() > 0.85  # edges of stripes blend
    assert (image.permute(1, 2, 0)[~inside] == torch.tensor(FILL, dtype=torch.uint8)).all()


@pytest.mark.parametrize(("drawn", "rows"), [(0.0, 20), (1 / 3, 40), (0.999, 80)])
def test_the_scale_lies_between_a_half_and_two(drawn, rows):
    labels = stripes(0)
    _, truth = random_crop(colored(labels), labels, crop=200, fill=FILL, drawn=[drawn, 0, 0, 1])
    assert int((truth != VOID).any(dim=1).sum()) == rows


@pytest.mark.parametrize("scale", [0.1, 0.4, 0.9])
def test_no_label_lies_between_two_classes(scale):
    labels = np.where(stripes(1) > 0, np.uint8(9), np.uint8(0))
    _, truth = random_crop(colored(labels // 9), labels, crop=64, fill=FILL, drawn=[scale, 0, 0, 1])
    assert set(truth.unique().tolist()) <= {0, 9, VOID}


def test_mirroring_exchanges_left_and_right():
    labels = stripes(0)
    plain, mirrored = (
        random_crop(colored(labels), labels, crop=32, fill=FILL, drawn=[0.5, 0.2, 0.3, side]) for side in (0.9, 0.1)
    )
    assert torch.equal(plain[0].flip(2), mirrored[0])
    assert torch.equal(plain[1].flip(1), mirrored[1])


def test_crops_reach_every_edge():
    labels = np.zeros((60, 60), np.uint8)
    labels[0], labels[-1], labels[:, 0], labels[:, -1] = 1, 1, 2, 2
    first = random_crop(colored(labels), labels, crop=32, fill=FILL, drawn=[1 / 3, 0, 0, 1])[1]
    last = random_crop(colored(labels), labels, crop=32, fill=FILL, drawn=[1 / 3, 0.999, 0.999, 1])[1]
    assert (first[0, 1] == 1, first[1, 0] == 2) == (last[-1, -2] == 1, last[-2, -1] == 2) == (True, True)


def test_a_crop_follows_from_seed_step_and_position_alone(tmp_path):
    maps = open_label_maps(write_annot(tmp_path / "train"), use="train")
    first, again, other = (TrainPairs(maps, crop=32, fill=FILL, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first[Sample(3, 1, 2)][0], again[Sample(3, 1, 2)][0])
    assert not torch.equal(first[Sample(3, 1, 2)][0], first[Sample(4, 1, 2)][0])
    assert not torch.equal(first[Sample(3, 1, 2)][0], other[Sample(3, 1, 2)][0])
