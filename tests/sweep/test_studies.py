"""What the grids are: valid configurations, the papers' points, equal ones once."""

from __future__ import annotations

import dataclasses

import pytest

from moco.errors import ConfigError
from moco.recipes import RECIPES, configure, v1, v2
from moco.sweep import published
from moco.sweep.plan import make_plan
from moco.sweep.studies import BUILT_IN, LARGEST_BATCH, SIZES
from tests.sweep.grids import plan, settings

CIFAR = 50_000


def planned(study, recipe="cifar", images=CIFAR, options=None, **rest):
    return make_plan(settings(study, "CIFAR10", recipe=recipe, options=options, **rest), images)


WITH_QUEUE = [name for name, recipe in RECIPES.items() if recipe().mechanism == "moco"]


@pytest.mark.parametrize("recipe", WITH_QUEUE)
@pytest.mark.parametrize("study", BUILT_IN)
def test_every_point_of_every_study_is_a_valid_configuration(study, recipe):
    made = planned(study, recipe, seeds=(0, 1))
    points = made.studies[0].points
    assert len(points) >= 2
    assert len({point.name for point in points}) == len({point.label for point in points}) == len(points)
    assert len(made.places) == 2 * len(points)
    assert {run.config.seed for run in made.runs} == {0, 1}
    assert len({run.name for run in made.runs}) == len(made.runs)


@pytest.mark.parametrize("recipe", sorted(set(RECIPES) - set(WITH_QUEUE)))
@pytest.mark.parametrize("study", ["batchnorm", "queue", "v2"])
def test_a_study_of_what_v3_does_not_have_is_refused_by_name(study, recipe):
    with pytest.raises(ConfigError, match="mechanism 'moco-v3'"):
        planned(study, recipe)


def test_the_two_studies_of_the_paper_share_equal_runs():
    both = planned("paper")
    points = sum(len(study.points) for study in both.studies)
    assert [study.name for study in both.studies] == ["mechanism", "momentum"]
    assert len(both.runs) == points - 1
    common = [both.places[0, p, 0] for p, point in enumerate(both.studies[0].points) if point.name == "moco-K4096"]
    assert common == [both.places[1, p, 0] for p, m in enumerate(both.studies[1].points) if m.x == 0.99]
    assert len({run.config for run in both.runs}) == len(both.runs)


def test_the_mechanisms_differ_in_where_negatives_come_from_and_in_nothing_else():
    made = planned("paper", options={"key_momentum": 0.9, "dictionary_size": 512})  # of the base, where it has a use
    base = dataclasses.asdict(configure("cifar", {"key_momentum": 0.9, "knn_images": 10**9}))
    own = {"mechanism", "dictionary_size", "key_momentum", "bank_momentum", "batch_size"}
    mechanisms = {name for (study, _, _), name in made.places.items() if study == 0}
    for run in (run for run in made.runs if run.name in mechanisms):
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
    by_epochs = [run.config for run in planned("mechanism").runs if run.config.mechanism == "end-to-end"]
    assert {config.epochs for config in by_epochs} == {200}


def test_dictionaries_larger_than_the_data_set_are_left_out_and_said_to_be():
    study = planned("mechanism").studies[0]
    assert {point.x for point in study.points if point.line == "moco"} == {size for size in SIZES if size < CIFAR}
    assert max(point.x for point in study.points if point.line == "end-to-end") == LARGEST_BATCH
    assert any("65,536 left out" in note for note in study.notes)
    assert len(planned("queue", images=2_000_000).studies[0].points) == len(SIZES)
    with pytest.raises(ConfigError, match="more than the 100 images; give values"):
        planned("queue", images=100, options={"batch_size": 64})


def test_values_replace_the_studys_own():
    study = planned("queue", values=[64, 100_000]).studies[0]
    assert [point.x for point in study.points] == [64, 100_000]
    both = planned("paper", values={"momentum": [0.5, 0.6]})
    assert [point.x for point in both.studies[1].points] == [0.5, 0.6]
    assert len(both.studies[0].points) == 13


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
    made = plan(None, vary={"key_momentum": [0.9, 0.99], "temperature": [0.1, 0.2, 0.1]})
    assert [(run.config.key_momentum, run.config.temperature) for run in made.runs] == [
        (0.9, 0.1),
        (0.9, 0.2),
        (0.99, 0.1),
        (0.99, 0.2),
    ]
    assert {point.line for point in made.studies[0].points} == {"temperature = 0.1", "temperature = 0.2"}
    assert plan(None, vary={"head": ["linear", "mlp"]}).studies[0].axis == "category"
    assert plan(None, vary={"base_learning_rate": [0.01, 0.5]}).studies[0].axis == "log"


def test_published_figures_stand_beside_the_points_that_they_belong_to():
    momenta = planned("momentum").studies[0].points
    assert [point.published for point in momenta] == ["fails", "55.2", "57.8", "59.0", "58.9"]
    mechanisms = {point.name: point.published for point in planned("mechanism").studies[0].points}
    assert mechanisms["moco-K16384"] == "60.4"
    assert mechanisms["memory-bank-K256"] == "50.0"
    assert mechanisms["end-to-end-K1024"] == "57.3"
    assert [point.published for point in planned("temperature", "v2").studies[0].points][2] == "66.2"
    assert [point.published for point in planned("temperature", "v1").studies[0].points][2] == "59.0"
    assert max(published.V2.values()) == "67.5"


@pytest.mark.parametrize(
    ("study", "options", "message"),
    [
        ("momentun", {}, "unknown study 'momentun': did you mean momentum"),
        ("momentum,queu", {}, "unknown study 'queu': did you mean queue"),
        (None, {}, "give exactly one of the two"),
        (None, {"vary": {"key_momentun": [0.9]}}, "unknown option 'key_momentun': did you mean key_momentum"),
        (None, {"vary": {"temperature": [-1.0]}}, "temperature=-1.0: need a value above 0"),
        (None, {"vary": {"temperature": []}}, "temperature without values"),
        (None, {"vary": {"temperature": [0.1]}, "options": {"temperature": 0.2}}, "temperature is set and varied"),
        (None, {"vary": {"seed": [0, 1]}}, "seed has an option of its own: seeds"),
        ("momentum", {"vary": {"temperature": [0.1]}}, "give exactly one of the two"),
        ("momentum", {"options": {"key_momentum": 0.5}}, "key_momentum is set, but every point has its own"),
        ("momentum", {"options": {"tmperature": 0.5}}, "unknown option 'tmperature': did you mean temperature"),
        ("momentum", {"seeds": (0, 0)}, "seeds=[0, 0]"),
        ("momentum", {"jobs": 0}, "jobs=0"),
        ("momentum", {"minutes": 0}, "minutes=0"),
        ("momentum", {"values": {"queue": [8]}}, "it is not among momentum"),
        ("paper", {"values": [8]}, "say for which"),
        ("v2", {"values": [8]}, "its rows are fixed"),
        ("momentum", {"launcher": "slrum"}, "launcher='slrum'"),
        ("momentum", {"slurm": {"nodes": 1}}, "slurm={'nodes': 1}"),
    ],
)
def test_what_cannot_be_run_is_refused_with_the_nearest_names(study, options, message):
    with pytest.raises(ConfigError) as error:
        plan(study, **options) if "options" not in options else planned(study, **options)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_arrays_must_be_in_a_file():
    import numpy as np

    with pytest.raises(ConfigError, match=r"data of type ndarray: .*numpy.savez"):
        settings("momentum", np.zeros((4, 8, 8, 3), dtype=np.uint8))
