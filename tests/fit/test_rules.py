"""The rules as pure functions: tables of facts and expected values, and what follows from a stated option."""

from __future__ import annotations

import dataclasses

import pytest

from moco.config import Config
from moco.errors import ConfigError
from moco.fit import budget, rules
from moco.fit.inputs import Facts, Pace
from moco.fit.rules import first_choices, length_choices
from moco.printable import duration
from moco.recipes import RECIPES, configure

LAPTOP = Facts(images=3000, side=480, grey=False, gpu=False, cores=4, memory=16e9, budget=1800.0)
SERVER = Facts(images=100_000, side=480, grey=False, gpu=True, cores=16, memory=80e9, budget=8 * 3600.0)
PACE = Pace(step=0.5, start=10.0, evaluation=0.002, curve=3000, whole=4000)


def chosen(facts: Facts, stated=None, pace: Pace | None = None, **changes):
    """Values by name."""
    facts, stated = dataclasses.replace(facts, **changes), dict(stated or {})
    values = {choice.what: choice.value for choice in first_choices(facts, stated)}
    if pace is not None:
        values |= {choice.what: choice.value for choice in length_choices(facts, {**stated, **values}, pace)}
    return values


def test_fast_is_what_a_run_on_a_cpu_takes_in_stated_numbers():
    fast = dataclasses.asdict(configure("fast", {}))
    long = {"steps": fast["steps"]}
    fitted = chosen(LAPTOP, long, PACE, images=4096)
    assert fitted == {name: fast[name] for name in fitted}
    assert fitted["optimizer"] == "muon"
    assert fitted["warmup_steps"] == 250


@pytest.mark.parametrize(
    ("facts", "changes", "expected"),
    [
        (LAPTOP, {}, {"backbone": "resnet_small", "image_size": 64, "batch_size": 64, "dictionary_size": 704}),
        (LAPTOP, {"budget": 3 * 3600.0}, {"backbone": "resnet18", "image_size": 96}),
        (LAPTOP, {"budget": 3 * 3600.0, "cores": 16}, {"image_size": 128}),
        (LAPTOP, {"side": 28}, {"image_size": 32, "crop_min": 0.4, "batch_size": 128, "base_learning_rate": 0.004}),
        (LAPTOP, {"side": 28, "images": 499}, {"image_size": 32, "batch_size": 32}),
        (LAPTOP, {"side": 8}, {"image_size": 32, "crop_min": 0.4}),
        (LAPTOP, {"side": 70}, {"image_size": 64, "crop_min": 0.2}),
        (LAPTOP, {"images": 499}, {"batch_size": 32, "dictionary_size": 256}),
        (LAPTOP, {"images": 500}, {"batch_size": 64, "dictionary_size": 256}),
        (LAPTOP, {"images": 60}, {"batch_size": 32, "dictionary_size": 32}),
        (LAPTOP, {"images": 10**7}, {"dictionary_size": 65_536}),
        (LAPTOP, {"grey": True}, {"hue": 0.0, "saturation": 0.0, "grayscale_probability": 0.0}),
        (LAPTOP, {}, {"hue": 0.1, "saturation": 0.4, "grayscale_probability": 0.2, "temperature": 0.1}),
        (LAPTOP, {}, {"schedule_unit": "step", "optimizer": "muon", "base_learning_rate": 0.008}),
        (SERVER, {}, {"backbone": "resnet50", "image_size": 224, "batch_size": 256, "base_learning_rate": 0.03}),
        (SERVER, {}, {"optimizer": "sgd", "temperature": 0.2}),
        (SERVER, {"images": 900}, {"backbone": "resnet18", "image_size": 224, "batch_size": 64}),
        (SERVER, {"side": 96}, {"backbone": "resnet18", "image_size": 96, "batch_size": 256}),
        (SERVER, {"memory": 16e9}, {"batch_size": 64}),
        (SERVER, {}, {"dictionary_size": 24_832}),
    ],
)
def test_what_follows_from_the_facts(facts, changes, expected):
    values = chosen(facts, **changes)
    assert {name: values[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("changes", "side"),
    [({}, 96), ({"side": 28}, 96), ({"budget": 7200.0, "cores": 16}, 128), ({"budget": 7200.0, "side": 100}, 96)],
)
def test_trained_weights_want_images_of_some_size_and_a_head_that_learns_alone_at_first(changes, side):
    stated = {"init": "torchvision/resnet18", "backbone": "torchvision/resnet18"}
    values = chosen(LAPTOP, stated, PACE, **changes)
    assert (values["image_size"], values["base_learning_rate"]) == (side, 0.12)
    assert values["head_warmup_steps"] == 30
    assert values["key_momentum"] == (0.999 if values["steps"] >= 10_000 else 0.99)
    assert chosen(LAPTOP, {**stated, "steps": 50}, PACE)["head_warmup_steps"] == 10
    assert "head_warmup_steps" not in chosen(LAPTOP, {}, PACE)
    assert chosen(SERVER, stated)["image_size"] == 224


@pytest.mark.parametrize(
    ("budget", "step", "expected"),
    [
        (1800.0, 0.5, {"steps": 3488, "key_momentum": 0.998, "warmup_steps": 174}),
        (8 * 3600.0, 0.5, {"steps": 50_000, "key_momentum": 0.999, "knn_evaluations": 5, "knn_images": 4000}),
        (60.0, 0.5, {"knn_images": 1500, "knn_evaluations": 2, "steps": 76}),
        (5.0, 0.5, {"steps": 0, "knn_images": 500, "knn_evaluations": 1}),
    ],
)
def test_the_length_follows_from_the_budget(budget, step, expected):
    values = chosen(LAPTOP, pace=dataclasses.replace(PACE, step=step), budget=budget)
    assert {name: values[name] for name in expected} == expected


@pytest.mark.parametrize("facts", [LAPTOP, SERVER, dataclasses.replace(LAPTOP, images=50, side=8, grey=True)])
def test_every_choice_has_a_reason_and_makes_a_valid_configuration_within_the_budget(facts):
    first = first_choices(facts, {})
    values = {choice.what: choice.value for choice in first}
    length = length_choices(facts, values, PACE)
    assert all(choice.why for choice in (*first, *length))
    assert {choice.what for choice in (*first, *length)} == set(rules.FIELDS) - {"head_warmup_steps"}
    config = configure("auto", {**values, **{choice.what: choice.value for choice in length}})
    assert config.dictionary_size <= facts.images
    assert config.dictionary_size % config.batch_size == 0
    settled = dataclasses.asdict(config)
    assert rules.fixed_seconds(settled, PACE) + config.steps * PACE.step <= facts.budget


OTHER = {
    "backbone": "resnet50",
    "image_size": 128,
    "batch_size": 48,
    "dictionary_size": 512,
    "temperature": 0.3,
    "crop_min": 0.5,
    "hue": 0.5,
    "saturation": 0.1,
    "grayscale_probability": 0.5,
    "schedule_unit": "epoch",
    "optimizer": "sgd",
    "base_learning_rate": 0.5,
    "knn_images": 77,
    "knn_evaluations": 3,
    "steps": 20_000,
    "key_momentum": 0.5,
    "warmup_steps": 7,
    "head_warmup_steps": 9,
}


@pytest.mark.parametrize("name", rules.FIELDS)
def test_what_is_stated_stays_and_says_so(name):
    stated = {name: OTHER[name]}
    assert chosen(LAPTOP, stated, PACE)[name] == OTHER[name]
    choices = [*first_choices(LAPTOP, stated), *length_choices(LAPTOP, {**chosen(LAPTOP, stated), **stated}, PACE)]
    assert next(choice.why for choice in choices if choice.what == name) == "stated"


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ({"batch_size": 48, "optimizer": "sgd"}, {"dictionary_size": 720, "base_learning_rate": 0.32}),
        ({"optimizer": "sgd"}, {"base_learning_rate": 0.24}),
        ({"base_learning_rate": 0.03}, {"optimizer": "sgd"}),
        ({"sgd_momentum": 0.8}, {"optimizer": "sgd", "base_learning_rate": 0.24}),
        ({"optimizer": "muon", "batch_size": 256}, {"base_learning_rate": 0.002}),
        ({"mechanism": "end-to-end"}, {"optimizer": "sgd"}),
        ({"init": "torchvision/resnet18"}, {"optimizer": "sgd"}),
        ({"steps": 20_000}, {"key_momentum": 0.999, "warmup_steps": 1000}),
        ({"epochs": 10}, {"epochs": 10, "warmup_steps": 23, "key_momentum": 0.998}),
        ({"knn_images": 800}, {"steps": 3557}),
    ],
)
def test_what_depends_on_a_stated_option_follows_from_it(stated, expected):
    values = chosen(LAPTOP, stated, PACE)
    assert {name: values[name] for name in expected} == expected
    assert "steps" not in values or "epochs" not in values


@pytest.mark.parametrize(
    ("stated", "absent"),
    [
        ({"mechanism": "end-to-end"}, {"dictionary_size", "key_momentum"}),
        ({"mechanism": "memory-bank"}, {"key_momentum"}),
        ({"mechanism": "moco-v3"}, {"dictionary_size", "optimizer", "base_learning_rate"}),
        ({"mechanism": "curl"}, {"dictionary_size", "temperature"}),
        ({"fixed_crop": True}, {"crop_min"}),
        ({"schedule": "constant"}, {"schedule_unit"}),
        ({"optimizer": "adamw"}, {"base_learning_rate"}),
        ({"warmup_epochs": 1, "epochs": 9}, {"warmup_steps"}),
    ],
)
def test_nothing_is_chosen_that_the_run_does_not_have(stated, absent):
    assert absent.isdisjoint(chosen(LAPTOP, stated, PACE))
    assert chosen(LAPTOP, stated, PACE)["image_size"] == 64


def test_without_labels_the_monitor_is_not_mentioned():
    assert {"knn_images", "knn_evaluations"}.isdisjoint(chosen(LAPTOP, {}, Pace(step=1.0, start=1.0)))


def test_the_recipe_is_v2_but_for_what_the_rules_decide():
    assert dataclasses.replace(RECIPES["auto"](), recipe="v2") == Config()


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("30m", 1800), ("1.5h", 5400), (" 2d ", 172_800)])
def test_a_budget_is_read(text, seconds):
    assert budget.seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "30 minutes", "-3m", "0h", "m", 30])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(ConfigError, match="expected a time such as 90s, 30m or 8h"):
        budget.seconds(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(5, "5 s"), (99, "99 s"), (150, "2.5 min"), (1800, "30 min"), (111_600, "31 h"), (1e6, "11.6 days")],
)
def test_times_are_said_in_two_digits(seconds, text):
    assert duration(seconds) == text
