"""The built-in studies, after the papers' own tables, and grids over any option."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from moco.errors import ConfigError
from moco.sweep.study import Base, Point, Study, axis_of, number

CURES = ("none", "split", "average", "shuffle")
Values = Sequence[Any] | None

# What the papers report: top-1 in percent, ImageNet-1k linear probe, R50, 200 epochs. He et al. 2020 (1911.05722),
# figure 3 and section 4.1; Chen et al. 2020 (2003.04297), tables 1 to 3; K with v2 from the authors' moco issue 62.
PUBLISHED_MECHANISM: Mapping[str, Mapping[int, str]] = {
    "moco": {256: "54.9", 512: "56.3", 1024: "57.5", 4096: "59.0", 16384: "60.4", 65536: "60.6"},
    "memory-bank": {256: "50.0", 512: "52.0", 1024: "54.1", 4096: "56.5", 16384: "57.8", 65536: "58.0"},
    "end-to-end": {256: "54.7", 512: "56.4", 1024: "57.3"},
}
PUBLISHED_MOMENTUM: Mapping[float, str] = {0.0: "fails", 0.9: "55.2", 0.99: "57.8", 0.999: "59.0", 0.9999: "58.9"}
PUBLISHED_TEMPERATURE: Mapping[str, Mapping[float, str]] = {
    "mlp": {0.07: "62.9", 0.1: "64.9", 0.2: "66.2", 0.3: "65.7", 0.4: "65.0", 0.5: "64.3"},
    "linear": {0.07: "60.6", 0.1: "60.7", 0.2: "59.0", 0.3: "58.2", 0.4: "57.2", 0.5: "56.4"},
}
PUBLISHED_QUEUE = {"linear": PUBLISHED_MECHANISM["moco"], "mlp": {256: "67.0", 1024: "67.1", 65536: "67.5"}}
PUBLISHED_V2 = {"v1": "60.6", "+MLP": "66.2", "+aug+": "63.4", "+MLP +aug+": "67.3", "+MLP +aug+ +cosine": "67.5"}
SIZES = tuple(PUBLISHED_MECHANISM["moco"])  # of the dictionary
LARGEST_BATCH = max(PUBLISHED_MECHANISM["end-to-end"])


def mechanism(base: Base, values: Values) -> Study:
    """Queue, memory bank and end-to-end over the number of negatives. End-to-end has K = batch, its learning rate
    scaled linearly, and sees as many samples as the others.
    """
    sizes, notes = _sizes(base, values, "mechanism")
    points = [
        Point(
            label=f"{kind}, K = {number(size)}",
            name=f"{kind}-K{size}",
            options={"mechanism": kind, "dictionary_size": size},
            line=kind,
            x=size,
            published=PUBLISHED_MECHANISM[kind].get(size, ""),
            without=without,
        )
        for kind, without in (("moco", ()), ("memory-bank", ("key_momentum",)))
        for size in sizes
    ]
    points += [_end_to_end(base, size) for size in sizes if size <= LARGEST_BATCH]
    notes = (*notes, f"end-to-end: K = batch, at most {number(LARGEST_BATCH)}")
    title = "Three contrastive mechanisms"
    return Study("mechanism", title, "K, number of negatives", "log", tuple(points), notes)


def _end_to_end(base: Base, batch: int) -> Point:
    config = base.config
    ratio = config.batch_size / batch
    options: dict[str, Any] = {"mechanism": "end-to-end", "batch_size": batch}
    if config.steps is not None:
        options["steps"] = max(1, round(config.steps * ratio))
    if config.warmup_steps:
        options["warmup_steps"] = min(round(config.warmup_steps * ratio), options.get("steps", 10**9) - 1)
    return Point(
        label=f"end-to-end, K = {number(batch)}",
        name=f"end-to-end-K{batch}",
        options=options,
        line="end-to-end",
        x=batch,
        published=PUBLISHED_MECHANISM["end-to-end"].get(batch, ""),
        without=("dictionary_size", "key_momentum"),
    )


def momentum(base: Base, values: Values) -> Study:
    """How slowly the key encoder follows."""
    points = _points("key_momentum", "m", values or tuple(PUBLISHED_MOMENTUM), PUBLISHED_MOMENTUM)
    return Study("momentum", "Key momentum", "key momentum m", "even", points)


def batchnorm(base: Base, values: Values) -> Study:
    """Cures for the BatchNorm leak, and none; shuffling needs several devices, splitting has one."""
    config = base.config
    several = config.devices * config.num_nodes > 1
    cures = tuple(values or [cure for cure in CURES if several or cure != "shuffle"])
    points = tuple(Point(cure, f"batchnorm-{cure}", _settled(base, {"batchnorm": cure})) for cure in cures)
    return Study("batchnorm", "BatchNorm cure", "BatchNorm cure", "category", points)


def temperature(base: Base, values: Values) -> Study:
    """What the similarities are divided by."""
    points = _points(
        "temperature",
        "T",
        values or tuple(PUBLISHED_TEMPERATURE["mlp"]),
        PUBLISHED_TEMPERATURE.get(base.config.head, {}),
    )
    return Study("temperature", "Temperature", "temperature", "linear", points)


def queue(base: Base, values: Values) -> Study:
    """How many keys the dictionary holds."""
    sizes, notes = _sizes(base, values, "queue")
    points = _points("dictionary_size", "K", sizes, PUBLISHED_QUEUE.get(base.config.head, {}))
    return Study("queue", "Dictionary size", "K, keys in the dictionary", "log", points, notes)


def _points(field: str, letter: str, values: Sequence[Any], figures: Mapping[Any, str]) -> tuple[Point, ...]:
    """A point for each value of one option, with the papers' figure."""
    return tuple(Point(number(x), f"{letter}{x:.15g}", {field: x}, x=x, published=figures.get(x, "")) for x in values)


V1_VIEWS = {"jitter_probability": 1.0, "hue": 0.4, "grayscale_first": True, "blur_probability": 0.0}
V2_VIEWS = {"jitter_probability": 0.8, "hue": 0.1, "grayscale_first": False, "blur_probability": 0.5}
# The temperature goes with the head, as in the table: each has its own best one.
LINEAR_HEAD, MLP_HEAD = {"head": "linear", "temperature": 0.07}, {"head": "mlp", "temperature": 0.2}
V2_ROWS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "v1": ("v1", {**LINEAR_HEAD, **V1_VIEWS, "schedule": "step"}),
    "+MLP": ("v1-mlp", {**MLP_HEAD, **V1_VIEWS, "schedule": "step"}),
    "+aug+": ("v1-aug", {**LINEAR_HEAD, **V2_VIEWS, "schedule": "step"}),
    "+MLP +aug+": ("v1-mlp-aug", {**MLP_HEAD, **V2_VIEWS, "schedule": "step"}),
    "+MLP +aug+ +cosine": ("v2", {**MLP_HEAD, **V2_VIEWS, "schedule": "cosine"}),
}


def v2(base: Base, values: Values) -> Study:
    """From v1 to v2, one change after the other: the MLP head with its temperature, stronger views, cosine."""
    points = [Point(row, name, options, published=PUBLISHED_V2[row]) for row, (name, options) in V2_ROWS.items()]
    return Study("v2", "From v1 to v2", "change", "category", tuple(points))


BUILT_IN: dict[str, Callable[[Base, Values], Study]] = {
    "mechanism": mechanism,
    "momentum": momentum,
    "batchnorm": batchnorm,
    "temperature": temperature,
    "queue": queue,
    "v2": v2,
}
TOGETHER = {"paper": ("mechanism", "momentum")}
STUDIES = (*BUILT_IN, *TOGETHER)
# The option that the values of a study are of; v2 has none.
VARIED = {"mechanism": "dictionary_size", "queue": "dictionary_size", "momentum": "key_momentum"}
VARIED |= {"batchnorm": "batchnorm", "temperature": "temperature"}


def study_names(study: str) -> tuple[str, ...]:
    """The studies that a word stands for: one, several with commas, or paper.

    Raises:
        ConfigError: no such study; the nearest names are suggested.
    """
    names: list[str] = []
    for word in study.split(","):
        if word not in STUDIES:
            near = difflib.get_close_matches(word, STUDIES, n=2)
            advice = f"did you mean {' or '.join(near)}?" if near else f"choose one of {', '.join(STUDIES)}"
            raise ConfigError(f"unknown study {word!r}: {advice}")
        names += TOGETHER.get(word, (word,))
    return tuple(dict.fromkeys(names))


def vary(base: Base, fields: Mapping[str, Sequence[Any]]) -> Study:
    """Every combination of these values of these options."""
    first = next(iter(fields))
    axis = axis_of(fields[first])
    points = []
    for values in itertools.product(*(dict.fromkeys(choices) for choices in fields.values())):
        options = dict(zip(fields, values, strict=True))
        said = [f"{name} = {value}" for name, value in options.items()]
        points.append(
            Point(
                label=", ".join(said),
                name="-".join(f"{name}-{_in_a_name(value)}" for name, value in options.items()),
                options=_settled(base, options),
                line=", ".join(said[1:]),
                x=None if axis == "category" else values[0],
            )
        )
    title = " and ".join(name.replace("_", " ") for name in fields)
    # Bars stand side by side, with all that they are; curves are told apart by a legend.
    varied = title if axis == "category" else first.replace("_", " ")
    return Study("-".join(fields), title, varied, axis, tuple(points))


def _settled(base: Base, options: dict[str, Any]) -> dict[str, Any]:
    """The number of groups belongs to the split alone: other cures go without the recipe's."""
    cure = options.get("batchnorm", "auto")
    drop = cure not in ("auto", "split") and "split_groups" not in options and base.config.split_groups is not None
    return {**options, "split_groups": None} if drop else options


def _in_a_name(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return "".join(letter if letter.isalnum() or letter in "._" else "-" for letter in text)


def _sizes(base: Base, values: Values, study: str) -> tuple[list[int], tuple[str, ...]]:
    """Dictionary sizes, and a word about those that are left out: beyond the data set an image meets its own keys."""
    if values:
        return [int(value) for value in values], ()
    fitting = [size for size in SIZES if size <= base.images]
    if not fitting:
        raise ConfigError(
            f"study {study}: K from {SIZES[0]} on is more than the {base.images:,} images; give values, as in 64,128"
        )
    left = " and ".join(", ".join(number(size) for size in SIZES if size not in fitting).rsplit(", ", 1))
    return fitting, (f"K = {left} left out: more than the {base.images:,} images",) if left else ()
