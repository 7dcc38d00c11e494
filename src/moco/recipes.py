"""Recipes: functions that return a complete configuration, each with its source."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Iterable
from typing import Any

from moco.config import Config
from moco.config_checks import LACKING, MECHANISM_FIELDS, V3_HEADS, check_needless
from moco.errors import ConfigError


def v1() -> Config:
    """MoCo v1: He et al., CVPR 2020 (1911.05722). ImageNet linear probe, R50, 200 epochs: 60.6 % published."""
    return Config(
        recipe="v1",
        head="linear",
        temperature=0.07,
        jitter_probability=1.0,
        hue=0.4,
        grayscale_first=True,
        blur_probability=0.0,
        schedule="step",
    )


def v2() -> Config:
    """MoCo v2: Chen et al. 2020 (2003.04297). ImageNet linear probe, R50, 200 epochs: 67.5 % published."""
    return Config(recipe="v2")


def auto() -> Config:
    """What is not decided by `moco.fit` for images, machine and time: as MoCo v2."""
    return Config(recipe="auto")


def fast() -> Config:
    """v2 for a CPU and short runs: what a run that fits itself takes there, with stated numbers (docs/cheaper.md)."""
    return Config(
        recipe="fast",
        backbone="resnet_small",
        image_size=64,
        dictionary_size=1024,
        key_momentum=0.998,
        temperature=0.1,
        batch_size=64,
        epochs=None,
        steps=5000,
        optimizer="muon",
        base_learning_rate=0.008,  # 0.002 at 64
        schedule_unit="step",
        warmup_steps=250,
    )


def cifar() -> Config:
    """The authors' CIFAR-10 demonstration: R18, 200 epochs, kNN 82.6 % published (on the original PNG images)."""
    return Config(
        recipe="cifar",
        backbone="resnet18",
        image_size=32,
        head="linear",
        dictionary_size=4096,
        key_momentum=0.99,
        temperature=0.1,
        split_groups=8,
        crop_min=0.08,
        blur_probability=0.0,
        normalization="cifar",
        batch_size=512,
        base_learning_rate=0.03,  # 0.06 at 512
        weight_decay=5e-4,
        num_neighbors=200,
        knn_temperature=0.1,
    )


def picturebook() -> Config:
    """The embedded picture book: some minutes on two CPU cores. Views, K and m were chosen on a validation split."""
    return Config(
        recipe="picturebook",
        backbone="resnet_small",
        image_size=32,
        head="mlp",
        dictionary_size=1024,
        key_momentum=0.998,
        temperature=0.2,
        split_groups=4,
        crop_min=0.4,
        hue=0.5,  # backgrounds are a shortcut: with 0.1 the colours alone solve the task
        grayscale_probability=0.5,
        blur_probability=0.0,
        batch_size=64,
        epochs=None,
        steps=3000,
        optimizer="muon",
        base_learning_rate=0.008,  # 0.002 at 64
        weight_decay=0.15,  # weights end at two thirds of their length: fine-tuning moves them more
        schedule_unit="step",
        warmup_steps=100,
        knn_evaluations=5,
        knn_images=8000,
    )


def v3() -> Config:
    """MoCo v3 with a ResNet: Chen et al. 2021 (2104.02057). ImageNet linear probe, R50, 100 epochs: 68.9 % published.

    For 300 epochs the paper lowers base_learning_rate to 0.3, for 1,000 also weight_decay to 1.5e-6 and 1 - m to 0.004.
    """
    return Config(
        recipe="v3",
        mechanism="moco-v3",
        head="v3-resnet",
        hidden_dim=4096,
        zero_init_residual=True,
        embedding_dim=256,
        dictionary_size=None,
        key_momentum=0.99,
        key_momentum_schedule="cosine",
        temperature=1.0,
        symmetric=True,
        saturation=0.2,
        blur_probability=1.0,
        blur_probability_2=0.1,
        solarize_probability_2=0.2,
        batch_size=4096,
        epochs=100,
        optimizer="lars",
        base_learning_rate=0.6,
        weight_decay=1e-6,
        schedule_unit="step",
        warmup_epochs=10,
    )


def v3_vit() -> Config:
    """MoCo v3 with a ViT: Chen et al. 2021 (2104.02057). ImageNet linear probe, ViT-S, 300 epochs: 73.2 % published."""
    return dataclasses.replace(
        v3(),
        recipe="v3-vit",
        backbone="v3/vit_small",
        head="v3-vit",
        zero_init_residual=False,
        freeze_patch_projection=True,
        temperature=0.2,
        crop_min=0.08,
        epochs=300,
        optimizer="adamw",
        base_learning_rate=1.5e-4,
        weight_decay=0.1,
        warmup_epochs=40,
    )


def curl() -> Config:
    """CURL's contrastive part: Laskin et al. 2020 (2004.04136), batch as in the authors' README; Adam without decay."""
    return Config(
        recipe="curl",
        mechanism="curl",
        backbone="curl",
        image_size=84,
        head="none",
        embedding_dim=50,
        dictionary_size=None,
        key_momentum=0.95,
        key_momentum_every=2,
        temperature=1.0,
        fixed_crop=True,
        jitter_probability=0.0,
        grayscale_probability=0.0,
        blur_probability=0.0,
        flip_probability=0.0,
        normalization="none",
        batch_size=128,
        optimizer="adamw",
        base_learning_rate=0.002,  # 0.001 at 128
        weight_decay=0.0,
        schedule="constant",
    )


RECIPES: dict[str, Callable[[], Config]] = {
    "v1": v1,
    "v2": v2,
    "v3": v3,
    "v3-vit": v3_vit,
    "fast": fast,
    "cifar": cifar,
    "picturebook": picturebook,
    "curl": curl,
    "auto": auto,
}

# Where a recipe of another mechanism says nothing: v2's own, and Wu et al. 2018 (1805.01978) for the bank.
MECHANISM_DEFAULTS = {
    "dictionary_size": Config.dictionary_size,
    "key_momentum": Config.key_momentum,
    "bank_momentum": 0.5,
}
# Where another optimizer than the recipe's is stated: v2's values; muon's rate is 0.002 at 64 (docs/cheaper.md).
OPTIMIZER_DEFAULTS = {
    "sgd": {"base_learning_rate": Config.base_learning_rate, "weight_decay": Config.weight_decay},
    "muon": {"base_learning_rate": 0.008, "weight_decay": Config.weight_decay},
}
# Of a run from trained weights that learns by SGD, where nothing else is stated: docs/log.md, 2026-11-28.
CONTINUED = {"base_learning_rate": 0.12, "frozen_layers": 0.3}
CONTINUED_WARMUP = {"warmup_steps": 20, "head_warmup_steps": 30}  # or a fifth of a shorter run


def default_recipe(data: object) -> str:
    """The embedded picture book has a recipe of its own; images of the user's start from v2 if not fitted."""
    return "picturebook" if data is None else "v2"


def check_options(names: Iterable[str]) -> None:
    """Refuse what is no field of `Config`.

    Raises:
        ConfigError: the nearest names are suggested.
    """
    known = [field.name for field in dataclasses.fields(Config)]
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3)
            raise ConfigError(f"unknown option {name!r}" + (f": did you mean {', '.join(near)}?" if near else ""))


def configure(recipe: str, options: dict[str, Any], *, strict: bool = True) -> Config:
    """The recipe's configuration with the stated options in its place; `steps` alone replaces the recipe's epochs.

    Another mechanism than the recipe's drops the options that it lacks and takes defaults for its own, another
    optimizer ("sgd", "muon") its own learning rate and weight decay.
    A recipe's warm-up is cut to a quarter of a stated length; one in epochs keeps its share of a run in steps. A stated
    warm-up is taken as it is. What would change nothing beside the other values is refused, unless `strict` is false,
    as for what an earlier version has taken.

    Raises:
        ConfigError: an unknown recipe or option (nearest names suggested), or values that cannot work.
    """
    if not isinstance(recipe, str) or recipe not in RECIPES:
        raise ConfigError(f"recipe={recipe!r}: choose one of {', '.join(RECIPES)}")
    check_options(options)
    base = dataclasses.asdict(RECIPES[recipe]())
    # What is no word, `Config` refuses.
    words = {name: value for name, value in options.items() if isinstance(value, str)}
    _suit(base, words.get("mechanism", base["mechanism"]), words.get("backbone", base["backbone"]))
    _fit_warmup(base, options)
    if (optimizer := words.get("optimizer", base["optimizer"])) != base["optimizer"]:
        base.update(OPTIMIZER_DEFAULTS.get(optimizer, {}))
    length = {name for name in ("epochs", "steps") if options.get(name) is not None}
    if len(length) == 1:
        base.update(epochs=None, steps=None)
    chosen = {**base, **options, "recipe": recipe}
    chosen.update({name: tuple(value) for name, value in chosen.items() if isinstance(value, list)})
    config = Config(**chosen)
    if strict:
        check_needless(config, {name: value for name, value in options.items() if chosen[name] != base[name]})
    return config


def _suit(base: dict[str, Any], mechanism: str, backbone: str) -> None:
    """Give the recipe's values the fields of the mechanism; an unknown one is left to `Config` to refuse."""
    for field in LACKING if mechanism in MECHANISM_FIELDS else ():
        if field not in MECHANISM_FIELDS[mechanism]:
            base[field] = None
        elif base[field] is None:
            base[field] = MECHANISM_DEFAULTS[field]
    if mechanism == "moco-v3" and base["mechanism"] != mechanism:
        base.update(head="v3-vit" if "vit_" in backbone else "v3-resnet", symmetric=True, split_groups=None)
    elif mechanism != "moco-v3" and base["head"] in V3_HEADS:
        base.update(head="mlp", hidden_dim=None, symmetric=False)
    if "key_momentum" not in MECHANISM_FIELDS.get(mechanism, ()):
        base.update(key_momentum_schedule="constant", key_momentum_every=1)
    if (mechanism == "curl") != (base["mechanism"] == "curl"):  # no temperature there, and embeddings as they are
        base["temperature"] = 1.0 if mechanism == "curl" else Config.temperature


def _fit_warmup(base: dict[str, Any], options: dict[str, Any]) -> None:
    """Fit the recipe's warm-up to the stated length of the run, or let a stated warm-up replace it."""
    steps, epochs = options.get("steps"), options.get("epochs")
    if "warmup_steps" in options or "warmup_epochs" in options:
        base.update(warmup_steps=0, warmup_epochs=0)
    elif isinstance(steps, int):  # what else came, `Config` refuses
        if base["warmup_epochs"]:
            base["warmup_steps"] = steps * base["warmup_epochs"] // base["epochs"]
        base.update(warmup_steps=min(base["warmup_steps"], steps // 4), warmup_epochs=0)
    elif isinstance(epochs, int):
        base["warmup_epochs"] = min(base["warmup_epochs"], epochs // 4)
