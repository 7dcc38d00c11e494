"""What the grids are: valid configurations, the papers' points, equal ones once."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from moco.errors import ConfigError
from moco.recipes import RECIPES, configure, v1, v2
from moco.sweep.plan import differences, make_plan
from moco.sweep.studies import BUILT_IN, SIZES
from tests.sweep.grids import plan, settings

CIFAR = 50_000
WITH_QUEUE = [name for name, recipe in RECIPES.items() if recipe().mechanism == "moco"]


def planned(study, recipe="cifar", images=CIFAR, options=None, **rest):
    return make_plan(settings(study, "CIFAR10", recipe=recipe, options=options, **rest), images)


@pytest.mark.parametrize("recipe", sorted(set(WITH_QUEUE) - {"auto"}))
@pytest.mark.parametrize("study", BUILT_IN)
def test_every_point_of_every_study_is_a_valid_configuration(study, recipe):
    made = planned(study, recipe, seeds=(0, 1))
    points = made.studies[0].points
    assert len({point.name for point in points}) == len({point.label for point in points}) == len(points) >= 2
    assert [set(runs) for runs in made.places.values()] == [{0, 1}] * len(points)
    assert {run.config.seed for run in made.runs} == {0, 1}
    assert len({run.name for run in made.runs}) == len(made.runs)


WITHOUT_QUEUE = sorted(set(RECIPES) - set(WITH_QUEUE))
OF_V3 = [(study, recipe) for study in ("batchnorm", "v2") for recipe in WITHOUT_QUEUE if recipe.startswith("v3")]


@pytest.mark.parametrize(("study", "recipe"), [*(("queue", recipe) for recipe in WITHOUT_QUEUE), *OF_V3])
def test_a_study_of_what_a_recipe_does_not_have_is_refused_by_name(study, recipe):
    with pytest.raises(ConfigError, match=RECIPES[recipe]().mechanism):
        planned(study, recipe)


def test_the_two_studies_of_the_paper_share_equal_runs():
    both = planned("paper")
    points = sum(len(study.points) for study in both.studies)
    assert [study.name for study in both.studies] == ["mechanism", "momentum"]
    assert len(both.runs) == len({run.config for run in both.runs}) == points - 1
    common = [both.places[0, p][0] for p, point in enumerate(both.studies[0].points) if point.name == "moco-K4096"]
    assert common == [both.places[1, p][0] for p, m in enumerate(both.studies[1].points) if m.x == 0.99]


def test_the_mechanisms_differ_in_where_negatives_come_from_and_in_nothing_else():
    made = planned("mechanism", options={"key_momentum": 0.9})  # of the base, where it has a use
    base = dataclasses.asdict(configure("cifar", {"key_momentum": 0.9, "knn_images": 10**9}))
    own = {"mechanism", "dictionary_size", "key_momentum", "bank_momentum", "batch_size"}
    for run in made.runs:
        config = dataclasses.asdict(run.config)
        assert {name for name in base if config[name] != base[name]} <= own, run.name
        assert run.config.key_momentum == (0.9 if run.config.mechanism == "moco" else None)


def test_end_to_end_has_the_batch_for_k_a_scaled_learning_rate_and_as_many_samples():
    made = planned("mechanism", options={"steps": 1000, "warmup_steps": 50})
    batches = [run.config for run in made.runs if run.config.mechanism == "end-to-end"]
    assert [config.batch_size for config in batches] == [256, 512, 1024]
    for config in batches:
        assert config.dictionary_size is None
        assert config.learning_rate == pytest.approx(0.03 * config.batch_size / 256)
        assert config.steps * config.batch_size == pytest.approx(1000 * 512, rel=0.01)
        assert config.warmup_steps * config.batch_size == pytest.approx(50 * 512, rel=0.01)


def test_dictionaries_larger_than_the_data_set_are_left_out_and_said_to_be():
    study = planned("mechanism").studies[0]
    assert {point.x for point in study.points if point.line == "moco"} == {size for size in SIZES if size < CIFAR}
    assert any("65,536 left out" in note for note in study.notes)
    assert [point.x for point in planned("queue", values=[64, 100_000]).studies[0].points] == [64, 100_000]
    with pytest.raises(ConfigError, match="100 images"):
        planned("queue", images=100, options={"batch_size": 64})


def test_v2_starts_at_v1_and_ends_at_v2():
    runs = planned("v2", "v2").runs
    names = [field.name for field in dataclasses.fields(v1()) if field.name not in ("recipe", "knn_images")]
    for run, recipe in ((runs[0], v1()), (runs[-1], v2())):
        assert {name: getattr(run.config, name) for name in names} == {name: getattr(recipe, name) for name in names}
    changes = [{n for n in names if getattr(run.config, n) != getattr(runs[0].config, n)} for run in runs]
    views = {"jitter_probability", "hue", "grayscale_first", "blur_probability"}
    head = {"head", "temperature"}
    assert changes == [set(), head, views, head | views, head | views | {"schedule"}]


def test_cures_without_groups_drop_the_recipes_groups():
    cures = {run.config.batchnorm: run.config.split_groups for run in planned("batchnorm").runs}
    assert cures == {"none": None, "split": 8, "average": None}
    several = planned("batchnorm", options={"devices": 2, "split_groups": None})
    assert "shuffle" in {run.config.batchnorm for run in several.runs}


def test_any_option_can_be_varied_and_several_are_combined():
    made = plan(None, vary={"key_momentum": [0.9, 0.99], "temperature": [0.1, 0.2]})
    combined = [(run.config.key_momentum, run.config.temperature) for run in made.runs]
    assert combined == [(0.9, 0.1), (0.9, 0.2), (0.99, 0.1), (0.99, 0.2)]
    assert {point.line for point in made.studies[0].points} == {"temperature = 0.1", "temperature = 0.2"}
    assert plan(None, vary={"head": ["linear", "mlp"]}).studies[0].axis == "category"
    assert plan(None, vary={"base_learning_rate": [0.01, 0.5]}).studies[0].axis == "log"


def test_published_figures_stand_beside_the_points_that_they_belong_to():
    figures = {
        (study, recipe): {point.name: point.published for point in planned(study, recipe).studies[0].points}
        for study, recipe in (("momentum", "v1"), ("mechanism", "cifar"), ("temperature", "v2"), ("temperature", "v1"))
    }
    assert list(figures["momentum", "v1"].values()) == ["fails", "55.2", "57.8", "59.0", "58.9"]
    mechanisms = figures["mechanism", "cifar"]
    assert [mechanisms[name] for name in ("moco-K16384", "memory-bank-K256", "end-to-end-K1024")] == [
        "60.4",
        "50.0",
        "57.3",
    ]
    assert (figures["temperature", "v2"]["T0.2"], figures["temperature", "v1"]["T0.2"]) == ("66.2", "59.0")


@pytest.mark.parametrize(
    ("study", "options", "named"),
    [
        ("momentum,queu", {}, "queue"),
        (None, {}, "study"),
        (None, {"vary": {"key_momentun": [0.9]}}, "key_momentum"),
        (None, {"vary": {"temperature": [-1.0]}}, "temperature"),
        (None, {"vary": {"temperature": []}}, "temperature"),
        (None, {"vary": {"temperature": [0.1]}, "options": {"temperature": 0.2}}, "temperature"),
        (None, {"vary": {"seed": [0, 1]}}, "seeds"),
        ("momentum", {"vary": {"temperature": [0.1]}}, "vary"),
        ("momentum", {"options": {"key_momentum": 0.5}}, "key_momentum"),
        ("momentum", {"seeds": (0, 0)}, "seeds"),
        ("momentum", {"jobs": 0}, "jobs"),
        ("momentum", {"minutes": 0}, "minutes"),
        ("momentum", {"launcher": "slrum"}, "slurm"),
        ("momentum", {"slurm": {"nodes": 1}}, "launcher"),
        ("momentum", {"values": {"queue": [8]}}, "queue"),
        ("paper", {"values": [8]}, "values"),
        ("v2", {"values": [8]}, "v2"),
        ("momentum", {"data": np.zeros((4, 8, 8, 3), dtype=np.uint8)}, "ndarray"),
    ],
)
def test_what_cannot_be_run_is_refused_by_name(study, options, named):
    with pytest.raises(ConfigError, match=rf"^[^\n]*{named}[^\n]*$"):
        plan(study, **options)


def test_what_a_run_finds_out_by_itself_is_no_other_configuration():
    wanted = configure("v2", {})
    found = {"precision": "bf16", "layout": "contiguous", "channels": 4, "value_range": 4095}
    stored = dataclasses.replace(wanted, normalization="0.1,0.2,0.3,0.4/1,1,1,1", **found)
    assert differences(wanted, stored) == []
    stated = dataclasses.replace(wanted, channels=5, value_range=1023)
    assert differences(stated, stored) == ["channels is 4, now 5", "value_range is 4095, now 1023"]
    ordinary = dataclasses.replace(wanted, channels=3, normalization="cifar")
    assert differences(wanted, ordinary) == ["normalization is cifar, now imagenet"]


def test_a_grid_from_trained_weights_is_refused():
    with pytest.raises(ConfigError, match="init in a grid: its runs start from random weights"):
        make_plan(settings("momentum", "CIFAR10", recipe="cifar", options={"init": "resnet18"}), 50_000)
