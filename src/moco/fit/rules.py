"""The rules of the recipe `auto`: what each option is for these images, this machine and this time, and why.

A rule is a pure function of the facts and of what is settled before it (stated options, and the rules above it in
`RULES` and `LENGTH_RULES`), so that what depends on a stated one follows it. `tests/fit/test_rules.py` has a table.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from moco.config import REFERENCE_BATCH, Config
from moco.config_checks import COUNTS, MECHANISM_FIELDS
from moco.fit.inputs import Choice, Facts, Pace
from moco.recipes import CONTINUED, CONTINUED_WARMUP
from moco.sizes import height_width

LEAST_IMAGES, FEW_IMAGES, HANDFUL = 50, 1_000, 500  # the first to learn from at all
SHORT_BUDGET = 3600.0  # seconds
SHORT_RUN, MANY_CORES = 10_000, 8  # steps; cores
TINY_SIDE, LARGE_SIDE = 32, 160  # pixels; from the second on, images gain from 224 px
TRAINED_SIDE = 96  # least for weights that were trained on images of 224 px and halve the resolution five times
PASSES, ENOUGH_STEPS = 800, 50_000  # the longest runs of the papers; a run of neither is never longer
IMAGE_BYTES = {"resnet50": 100e6, "resnet18": 25e6}  # of a training step at 224 px with the standard stem
MUON_RATE = 0.002  # a step
MUON_TEMPERATURE = 0.1
MEMORY_SHARE = 0.6  # of the device, for the batch

Settled = Mapping[str, Any]  # stated options and those decided already, over the defaults of `Config`
Ruled = tuple[Any, str]  # value, why


def backbone(facts: Facts, settled: Settled) -> Ruled:
    """ResNet-50 where a GPU, large images and many of them come together; a small one for a short time on a CPU."""
    if not facts.gpu and facts.budget < SHORT_BUDGET:
        return "resnet_small", "a CPU in less than an hour: three times the steps of resnet18"
    if not facts.gpu or facts.side < LARGE_SIDE:
        return "resnet18", "small images" if facts.gpu else "no GPU"
    few = facts.images < FEW_IMAGES
    return ("resnet18", f"fewer than {FEW_IMAGES:,} images") if few else ("resnet50", "a GPU and large images")


def image_size(facts: Facts, settled: Settled) -> Ruled:
    """A multiple of 32 near the images' own size, within what the device can do in the time."""
    trained = settled.get("init") is not None
    own = max(TRAINED_SIDE if trained else TINY_SIDE, 32 * round(facts.side / 32))  # small images are enlarged
    if facts.gpu:
        most, limit = 224, "the papers' size"
    elif facts.budget < SHORT_BUDGET:
        most, limit = TRAINED_SIDE if trained else 64, "a CPU in less than an hour"
    else:
        most = 128 if facts.cores >= MANY_CORES else 96
        limit = f"{facts.cores} CPU cores"
    if own <= most:
        if facts.side < own == TRAINED_SIDE and trained:
            return own, "the least for trained weights"
        return own, f"the images' shorter side is {facts.side} px"
    return most, f"{limit}; the images' shorter side is {facts.side} px"


def optimizer(facts: Facts, settled: Settled) -> Ruled:
    """Muon where it has been measured: from random weights, with a queue, on a CPU (docs/cheaper.md)."""
    if settled["rate_stated"]:
        return "sgd", "a learning rate or momentum is stated, as of sgd"
    if settled.get("init") is not None or settled["mechanism"] != "moco":
        return "sgd", "as MoCo v2"
    return ("sgd", "as MoCo v2, on a GPU") if facts.gpu else ("muon", "gets further than sgd in the same time")


def batch_size(facts: Facts, settled: Settled) -> Ruled:
    """64 on a CPU, 32 for a handful of images, 256 on a GPU as far as memory and images go.

    Of a step of tiny images Muon's own work is a quarter, whatever their number (docs/cheaper.md).
    """
    if not facts.gpu:
        if facts.images < HANDFUL:
            return 32, f"fewer than {HANDFUL} images"
        tiny = settled["optimizer"] == "muon" and max(height_width(settled["image_size"])) <= TINY_SIDE
        return (128, "tiny images: muon is a part of each step") if tiny else (64, "a CPU: more and smaller steps")
    size, why = 256, "a GPU"
    # A small stem keeps the resolution that the standard one cuts to a quarter.
    sides = height_width(settled["image_size"])
    pixels = math.sqrt(math.prod(sides)) * (4 if min(sides) <= 64 else 1)
    each = IMAGE_BYTES.get(settled["backbone"], IMAGE_BYTES["resnet50"]) * (pixels / 224) ** 2
    while size > 32 and size * each > MEMORY_SHARE * facts.memory:
        size, why = size // 2, f"{facts.memory / 2**30:.0f} GiB of memory"
    while size > 32 and size > facts.images // 8:
        size, why = size // 2, f"{facts.images:,} images"
    return size, why


def dictionary_size(facts: Facts, settled: Settled) -> Ruled:
    """A quarter of the images, so that a query seldom meets older keys of its own image."""
    batch = settled["batch_size"]
    size = min(max(facts.images // 4, 256), 65_536, facts.images)
    return max(size // batch, 1) * batch, "a quarter of the images" if size == facts.images // 4 else "the limit for K"


def temperature(facts: Facts, settled: Settled) -> Ruled:
    """That of v2; a lower one with Muon, whose short runs get further with it (docs/cheaper.md)."""
    if settled["optimizer"] == "muon":
        return MUON_TEMPERATURE, "short runs with muon did best with it"
    return 0.2, "as MoCo v2, for its MLP head"


def crop_min(facts: Facts, settled: Settled) -> Ruled:
    """Less zoom where there are few pixels to zoom into."""
    if facts.side <= TINY_SIDE:
        return 0.4, "tiny images: less zoom"
    return 0.2, "as MoCo v2, for photographs"


def hue(facts: Facts, settled: Settled) -> Ruled:
    """None where nothing has a colour."""
    return (0.0, "grey images") if facts.grey else (Config.hue, "as MoCo v2")


def saturation(facts: Facts, settled: Settled) -> Ruled:
    """As hue."""
    return (0.0, "grey images") if facts.grey else (Config.saturation, "as MoCo v2")


def grayscale_probability(facts: Facts, settled: Settled) -> Ruled:
    """None where all images are grey already."""
    return (0.0, "grey images") if facts.grey else (Config.grayscale_probability, "as MoCo v2")


def schedule_unit(facts: Facts, settled: Settled) -> Ruled:
    """A few epochs would make a stair of a cosine."""
    return "step", "few epochs: the learning rate changes at each step"


def base_learning_rate(facts: Facts, settled: Settled) -> Ruled:
    """0.06 at a batch of 64, which every short run of docs/log.md did best with; the papers' 0.03 for their setting."""
    if settled["optimizer"] == "muon":
        return MUON_RATE * REFERENCE_BATCH / settled["batch_size"], f"{MUON_RATE:g} a step, for muon"
    if settled.get("init") is not None:
        return CONTINUED["base_learning_rate"], "for trained weights"
    if settled["batch_size"] >= REFERENCE_BATCH and settled["backbone"] != "resnet18":
        return Config.base_learning_rate, "as MoCo v2: 0.03 at a batch of 256"
    return 0.06 * REFERENCE_BATCH / settled["batch_size"], "0.06 a step, which short runs did best with"


RULES = (
    backbone,
    image_size,
    optimizer,
    batch_size,
    dictionary_size,
    temperature,
    crop_min,
    hue,
    saturation,
    grayscale_probability,
    schedule_unit,
    base_learning_rate,
)


def knn_images(facts: Facts, settled: Settled, pace: Pace) -> Ruled:
    """As many as take no more than a tenth of the time before and after training; 500 at least."""
    most = int(Config.knn_images)
    each = pace.wholes * pace.evaluation
    if not pace.whole or each * min(pace.whole, most) <= 0.1 * facts.budget:
        return most, "the usual number"
    return max(500, min(most, int(0.1 * facts.budget / each))), "a tenth of the time"


def knn_evaluations(facts: Facts, settled: Settled, pace: Pace) -> Ruled:
    """Five, or what a tenth of the time allows; one at least."""
    each = pace.evaluation * min(pace.curve, settled["knn_images"])
    if not pace.whole or each * Config.knn_evaluations <= 0.1 * facts.budget:
        return Config.knn_evaluations, "the usual number"
    return max(1, int(0.1 * facts.budget / each)), "a tenth of the time"


def steps(facts: Facts, settled: Settled, pace: Pace) -> Ruled:
    """What fits beside start and evaluations; no more than 800 passes and 50,000 steps."""
    left = facts.budget - fixed_seconds(settled, pace)
    count = max(0, int(left / pace.step))
    most = max(ENOUGH_STEPS, PASSES * facts.images // settled["batch_size"])
    if count > most:
        return most, f"{PASSES} passes or {ENOUGH_STEPS:,} steps are enough"
    return count, f"{_number(left)} s at {_number(pace.step)} s a step"


def key_momentum(facts: Facts, settled: Settled, pace: Pace) -> Ruled:
    """0.998 in short runs: better than 0.99 in docs/log.md (2026-11-25) and docs/ablations.md at 600 to 900 steps."""
    count, short = run_steps(facts, settled), 0.998 if settled.get("init") is None else 0.99  # as --init was measured
    return (short, f"{count:,} steps") if count < SHORT_RUN else (0.999, f"{count:,} steps, a long run")


def warmup_steps(facts: Facts, settled: Settled, pace: Pace) -> Ruled:
    """A twentieth of the run."""
    return run_steps(facts, settled) // 20, "a twentieth of the steps"


def head_warmup_steps(facts: Facts, settled: Settled, pace: Pace) -> Ruled:
    """A new head learns alone at first, so that it does not pull at trained layers."""
    most = CONTINUED_WARMUP["head_warmup_steps"]
    return min(most, run_steps(facts, settled) // 5), "a new head on trained layers"


LENGTH_RULES = (knn_images, knn_evaluations, steps, key_momentum, warmup_steps, head_warmup_steps)
FIELDS = tuple(rule.__name__ for rule in (*RULES, *LENGTH_RULES))


def first_choices(facts: Facts, stated: Mapping[str, Any]) -> list[Choice]:
    """All that is decided before a step has been measured; stated options stay and are followed."""
    return _decided([(rule.__name__, functools.partial(rule, facts)) for rule in RULES], stated)


def length_choices(facts: Facts, stated: Mapping[str, Any], pace: Pace) -> list[Choice]:
    """What depends on how fast this machine is; `stated` holds the first choices too. A stated length stays."""
    rules = LENGTH_RULES if pace.whole else LENGTH_RULES[2:]  # without labels nothing is evaluated
    return _decided([(rule.__name__, functools.partial(rule, facts, pace=pace)) for rule in rules], stated)


def fixed_seconds(settled: Settled, pace: Pace) -> float:
    """Seconds of a run that are no steps."""
    most = settled["knn_images"]
    # Reading the images of the monitor, once, is part of `start`.
    images: int = pace.wholes * min(pace.whole, most) + settled["knn_evaluations"] * min(pace.curve, most)
    return pace.start + pace.evaluation * images


def run_steps(facts: Facts, settled: Settled) -> int:
    """Steps of the run, also where it has a number of epochs."""
    if settled.get("steps") is not None:
        return int(settled["steps"])
    return int(settled["epochs"]) * (facts.images // int(settled["batch_size"]))


def _decided(rules: list[tuple[str, functools.partial[Ruled]]], stated: Mapping[str, Any]) -> list[Choice]:
    settled = {**{field.name: field.default for field in dataclasses.fields(Config)}, **stated}
    settled["rate_stated"] = any(stated.get(name) is not None for name in ("base_learning_rate", "sgd_momentum"))
    absent, said = _absent(settled), "stated" if settled["init"] is None else "stated, or follows from --init"
    choices = []
    for name, rule in rules:
        if name in absent:
            continue
        if name == "steps" and stated.get("epochs") is not None:
            choices.append(Choice("epochs", stated["epochs"], "stated"))
            continue
        value, why = (stated[name], said) if stated.get(name) is not None else rule(settled)
        settled[name] = value
        choices.append(Choice(name, value, why))
    return choices


def _absent(settled: Settled) -> set[str]:
    """What this mechanism, optimiser or warm-up has not, or would change nothing."""
    absent = {"dictionary_size", "key_momentum"} - set(MECHANISM_FIELDS.get(settled["mechanism"], ()))
    absent |= {"temperature"} if settled["mechanism"] == "curl" else set()
    if settled["optimizer"] in ("adamw", "lars") or settled["mechanism"] == "moco-v3":
        absent.add("base_learning_rate")
    if settled["mechanism"] == "moco-v3":
        absent.add("optimizer")
    whole = SimpleNamespace(**settled)
    absent.update(name for names, (counts, _) in COUNTS.items() if not counts(whole) for name in names.split())
    if settled["warmup_epochs"]:
        absent.add("warmup_steps")
    if settled["head"] == "none" or (settled.get("init") is None and not settled["head_warmup_steps"]):
        absent.add("head_warmup_steps")
    return absent


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{math.floor(value * 100) / 100:g}"
