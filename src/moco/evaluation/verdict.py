"""What a run is worth beside other networks, in words, and what to do next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

Outcome = Literal["better", "undecided", "worse"]
# What a sentence calls the networks. The order is that of the advice: a run has to beat the first ones first.
CALLED = {
    "starting_weights": "the starting weights",
    "random_init": "untrained",
    "pixels": "raw pixels",
    "imagenet": "ImageNet weights",
    "from_scratch": "training from scratch",
}
_LONGER = "train longer"
_UNSURE = f"{_LONGER}, or ask more labelled images"
_ADVICE: dict[tuple[str, Outcome], str] = {
    ("starting_weights", "worse"): "keep the starting weights, or lower --base-learning-rate",
    ("starting_weights", "undecided"): f"keep the starting weights, or {_UNSURE}",
    ("random_init", "worse"): "lower --base-learning-rate, and look at the views (--crop-min, --hue)",
    ("random_init", "undecided"): _UNSURE,
    ("pixels", "worse"): f"{_LONGER}; if that does not help, milder views (--crop-min, --hue, --grayscale-probability)",
    ("pixels", "undecided"): _UNSURE,
    ("imagenet", "worse"): f"use the ImageNet weights, or {_LONGER}",
    ("imagenet", "undecided"): _UNSURE,
    ("from_scratch", "worse"): "where so many images have labels, train on them; --protocol finetune asks with few",
    ("from_scratch", "undecided"): "where so many images have labels, either will do",
}
_WORTH = "the features are worth using"
_PHRASES: dict[Outcome, str] = {"better": "better than", "undecided": "not decided against", "worse": "worse than"}


class Compared(NamedTuple):
    """How the run stands to one network, a key of `CALLED`; `part` says on which part of the labels, if not on all."""

    network: str
    outcome: Outcome
    part: str = ""


def verdict(compared: Sequence[Compared]) -> str | None:
    """One line: what the run is better than, not decided against, worse than, and what to do; None beside nothing.

    The advice is on the first network, in the order of `CALLED`, that the run does not surely beat.
    """
    if not compared:
        return None
    order = list(CALLED)
    compared = sorted(compared, key=lambda each: order.index(each.network))
    said = []
    for outcome, phrase in _PHRASES.items():
        names = [CALLED[each.network] + each.part for each in compared if each.outcome == outcome]
        if names:
            said.append(f"{phrase} {' and '.join(names)}")
    short = next((each for each in compared if each.outcome != "better"), None)
    return f"{', '.join(said)}: {_WORTH if short is None else _ADVICE[short.network, short.outcome]}"
