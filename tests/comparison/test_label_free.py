"""Scores without labels: which views are compared with which."""

from __future__ import annotations

import dataclasses

import pytest

from moco.comparison import label_free
from moco.comparison.bench import Bench
from moco.comparison.contenders import contenders
from moco.comparison.settings import Settings
from moco.comparison.subject import open_subject
from moco.comparison.task import open_sources, unlabelled_images


@pytest.mark.parametrize("batch", [60, 20, 7])
def test_both_views_of_an_image_are_compared_with_each_other(coloured, monkeypatch, batch):
    monkeypatch.setattr(label_free, "_BATCH", batch)
    settings = Settings(protocol="scores", train=str(coloured / "train"), baselines="none", device="cpu", quiet=True)
    subject = open_subject("resnet_tiny", image_size=16, data_size=None, allow_factory=False, seed=0)
    as_it_is = dataclasses.replace(
        subject.views,
        crop_scale=(1.0, 1.0),
        jitter_probability=0,
        grayscale_probability=0,
        blur_probability=0,
        flip_probability=0,
    )
    subject = dataclasses.replace(subject, views=as_it_is)
    images = unlabelled_images(open_sources(settings)[0], settings, image_size=16, maximum=100)
    (contender,), _ = contenders(subject, settings)
    values = {row.measure: row.values[0] for row in label_free.score(Bench.open(settings), subject, images, contender)}
    of_different_images = 2 * values["feature_std"] ** 2  # mean squared distance, as the width's square root is in it
    assert values["alignment"] < 0.3 * of_different_images, values


def test_scores_of_embeddings_are_those_behind_the_head(coloured):
    settings = Settings(protocol="scores", train=str(coloured / "train"), baselines="none", device="cpu", quiet=True)
    subject = open_subject("resnet_tiny", image_size=16, data_size=None, allow_factory=False, seed=0)
    images = unlabelled_images(open_sources(settings)[0], settings, image_size=16, maximum=100)
    (contender,), _ = contenders(subject, settings)
    contender = dataclasses.replace(contender, head=lambda features: features[..., :1].abs() + 1)
    found = label_free.score(Bench.open(settings), subject, images, contender)
    rows = {(row.inputs, row.measure): row.values[0] for row in found}
    assert rows["embeddings", "effective_rank"] == pytest.approx(1, abs=1e-3), "of one dimension"
    assert rows["embeddings", "alignment"] == pytest.approx(0, abs=1e-6)
    assert rows["features", "effective_rank"] > 2
