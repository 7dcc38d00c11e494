"""Scores without labels: which views are compared with which."""

from __future__ import annotations

import dataclasses

import pytest

from moco.commands.evaluated_model import open_model
from moco.evaluation import label_free
from moco.evaluation.network import networks
from moco.evaluation.settings import Settings
from moco.evaluation.task import open_sources


def scores(coloured, change_model=lambda model: model, change_network=lambda network: network):
    settings = Settings(protocol="scores", train=str(coloured / "train"), baselines="none", image_size=16, quiet=True)
    model = change_model(open_model("resnet_tiny", settings, None, open_sources(settings)[0]))
    images = label_free.read_images(open_sources(settings)[0], settings, size=16)
    (network,), _ = networks(model, settings)
    rows = label_free.score(model, images, change_network(network), settings, "cpu")
    return {(row.inputs, row.measure): row.values[0] for row in rows}


def as_it_is(model):
    plain = dataclasses.replace(
        model.views, crop_min=1.0, jitter_probability=0, grayscale_probability=0, blur_probability=0, flip_probability=0
    )
    return dataclasses.replace(model, views=plain)


@pytest.mark.parametrize("batch", [60, 20, 7])
def test_both_views_of_an_image_are_compared_with_each_other(coloured, monkeypatch, batch):
    monkeypatch.setattr(label_free, "_BATCH", batch)
    values = scores(coloured, as_it_is)
    of_different_images = 2 * values["features", "feature_std"] ** 2  # mean squared distance, with the width's root
    assert values["features", "alignment"] < 0.3 * of_different_images, values


def test_scores_of_embeddings_are_those_behind_the_head(coloured):
    one_dimension = lambda features: features[..., :1].abs() + 1  # noqa: E731
    found = scores(coloured, change_network=lambda network: dataclasses.replace(network, head=one_dimension))
    assert found["embeddings", "effective_rank"] == pytest.approx(1, abs=1e-3)
    assert found["embeddings", "alignment"] == pytest.approx(0, abs=1e-6)
    assert found["features", "effective_rank"] > 2
