"""`moco pretrain`: its options are the fields of `Config`, its defaults those of the recipe."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from jsonargparse import ActionYesNo, ArgumentParser, Namespace

from moco.cli.parser import Parser, described, with_underscores
from moco.config import Config
from moco.config_checks import MECHANISM_FIELDS, check_factory
from moco.recipes import RECIPES, configure, default_recipe
from moco.sizes import StatedSize

HINTS = {
    **get_type_hints(Config),
    "image_size": StatedSize,
    "small_view_size": StatedSize | None,
}  # the types of what a command line or a file states
TEXTS = {
    "out": "run folder; default runs/NAME-RECIPE",
    "budget": "time for a run without a recipe, such as 90s, 30m or 8h; by default 30m on a CPU, 8h on a GPU",
}
LOGGERS = "tensorboard (default), csv, wandb, mlflow or trackio; repeat it for several"
TRUTHS = {field.name for field in dataclasses.fields(Config) if isinstance(field.default, bool)}
SWITCHES = {
    "most used": {"dry_run": "say what the run would be, and end", "resume": "continue the run in --out"},
    "run": {
        "allow_factory": "call a backbone that is a function (package.module:factory) and that a file alone names",
        "changed_images": "resume although images have come, gone or changed; held-out ones stay held out",
        "quiet": "no progress bar and no messages",
    },
}
# Options without a value.
FLAGS = {"--print_config", "--help", *(f"--{name}" for switches in SWITCHES.values() for name in switches)}
FLAGS |= {f"--{no}{name}" for no in ("", "no_") for name in TRUTHS}


# The options that most people need, and then all others by subject; each field of `Config` once.
GROUPS = {
    title: tuple(fields.split())
    for title, fields in {
        "most used": "recipe init backbone image_size batch_size epochs steps test devices seed",
        "images": "include exclude labels channels value_range data_root",
        "views": (
            "crop_min fixed_crop brightness contrast saturation hue jitter_probability grayscale_probability "
            "grayscale_first blur_probability blur_probability_2 solarize_probability solarize_probability_2 "
            "flip_probability vertical_flip_probability rotate_probability normalization"
        ),
        "less computation": (
            "progressive_resolution decoupled nearest_positives nearest_positives_from small_views small_view_size "
            "small_crop patches"
        ),
        "mechanism, dictionary and encoder": (
            "mechanism dictionary_size dictionary_dtype key_momentum key_momentum_every key_momentum_schedule "
            "bank_momentum temperature symmetric batchnorm split_groups stem head hidden_dim embedding_dim num_heads "
            "frozen_layers zero_init_residual freeze_patch_projection"
        ),
        "optimisation": (
            "optimizer base_learning_rate sgd_momentum weight_decay schedule schedule_unit lr_milestones lr_decay "
            "warmup_steps warmup_epochs head_warmup_steps"
        ),
        "hardware": (
            "accelerator num_nodes precision layout compile activation_checkpointing chunk_size workers cache_gib "
            "threads"
        ),
        "evaluation while training": "held_out knn_evaluations patience knn_images num_neighbors knn_temperature",
        "run": "log_every checkpoint_minutes keep_checkpoints",
    }.items()
}


def make_parser(arguments: list[str]) -> ArgumentParser:
    """The parser, with the defaults of the recipe in the arguments."""
    parser = Parser(
        exit_on_error=False,
        usage="moco pretrain [DATA] [--out RUN] [options]",
        description=(
            "Learn a backbone from images without labels. DATA: a folder (nested, with or without class folders), a "
            ".npy or .npz array, the name of a torchvision data set (downloaded), or nothing for the picture book.\n\n"
            "What is not stated follows from the images, the machine and the time, or from --recipe.\n\n"
            "Example: moco pretrain photos --budget 30m --out runs/photos"
        ),
    )
    parser.add_argument("--config", action="config", help="YAML file with options, such as a run's config.yaml")
    parser.add_argument("data", nargs="?", type=str | None, default=None, metavar="DATA", help="images to learn from")
    said = described(Config)
    for title, fields in GROUPS.items():
        group = parser.add_argument_group(title)
        if title == "most used":
            for name, words in TEXTS.items():
                group.add_argument(f"--{name}", type=str | None, default=None, help=words)
        elif title == "run":
            group.add_argument("--logger", type=str, action="append", metavar="NAME", help=LOGGERS)
        for name, words in SWITCHES.get(title, {}).items():
            group.add_argument(f"--{name}", action="store_true", help=words)
        for name in fields:
            hint, default = HINTS[name], Config.__dataclass_fields__[name].default
            if name in TRUTHS:  # on in some recipes, off in others
                group.add_argument(f"--{name}", action=ActionYesNo, default=False, help=said[name])
            else:
                shown: dict[str, Any] = {"metavar": "PATTERN"} if name in ("include", "exclude") else {}
                group.add_argument(f"--{name}", type=hint, default=default, help=said[name], **shown)
    # Other defaults depend on these two, so they are needed before the parser exists; it says what is wrong with them.
    stored = _stored(_scan(arguments, "--config"))
    recipe, mechanism = (_scan(arguments, f"--{name}") or stored.get(name) for name in ("recipe", "mechanism"))
    recipe = recipe or ("v2" if "--config" in arguments else default_recipe(_scan_data(arguments)))
    if str(recipe) in RECIPES and mechanism in (None, *MECHANISM_FIELDS):
        base = configure(recipe, {} if mechanism is None else {"mechanism": mechanism})
        parser.set_defaults({name: getattr(base, name) for name in base.__dataclass_fields__})
    return parser


def subject(arguments: list[str]) -> str:
    """What the command will look at first, in a word."""
    arguments = with_underscores(arguments)
    out = _scan(arguments, "--out") if "--resume" in arguments else None
    return _scan_data(arguments) or out or _scan(arguments, "--config") or "the picture book"


def call(chosen: Namespace, arguments: list[str]) -> bool:
    """Pretrain with what the user gave; whether the run came to its end."""
    options: dict[str, Any] = chosen.as_dict()
    files = [_stored(str(path)) for path in options.pop("config", None) or []]
    data, loggers = options.pop("data", None), options.pop("logger", None)
    # The parser lets an absent argument hide the DATA of a file.
    given = _scan_data(arguments)  # "" is an unset variable, and not nothing
    stored = next((file["data"] for file in reversed(files) if file.get("data")), None)
    data = given if given is not None else data or stored
    from moco.commands.pretrain import pretrain

    # Without the defaults that the help shows: what nobody has stated may follow from something else.
    said = {name for file in files for name in file} | {_option(argument) for argument in arguments}
    stated = {name: value for name, value in options.items() if name in said}
    typed = {_option(argument) for argument in arguments}
    for name in {"backbone", "init"} & stated.keys() - typed:
        check_factory(stated[name], file="--config", allowed=stated.get("allow_factory", False))
    if files and stated.get("recipe") is None:  # a file says what a run is: nothing is fitted around it
        stated["recipe"] = default_recipe(data)
    run = pretrain(data, loggers=loggers, **stated)
    return bool(stated.get("dry_run")) or run.finished


def _option(argument: str) -> str:
    """The name of the option that an argument is, if it is one."""
    name = argument.removeprefix("--").partition("=")[0].replace("-", "_")
    return name.removeprefix("no_") if name.removeprefix("no_") in TRUTHS else name


def _stored(path: str | None) -> dict[str, Any]:
    """What a configuration file says; nothing if it cannot be read: the parser says what is wrong with it."""
    try:
        stored = None if path is None else yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError):
        return {}
    return stored if isinstance(stored, dict) else {}


def _scan(arguments: list[str], option: str) -> str | None:
    for position, argument in enumerate(arguments):
        if argument == option and position + 1 < len(arguments):
            return arguments[position + 1]
        if argument.startswith(option + "="):
            return argument.partition("=")[2]
    return None


def _scan_data(arguments: list[str]) -> str | None:
    """The first argument after the command's name that is neither an option nor an option's value."""
    value_expected = False
    for argument in arguments[1:]:
        if not argument.startswith("-") and not value_expected:
            return argument
        value_expected = argument.startswith("--") and "=" not in argument and argument not in FLAGS
    return None
