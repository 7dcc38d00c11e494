"""What a run is worth beside other networks, in words, and what to do next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

Outcome = Literal["better", "undecided", "worse"]
# What a sentence calls the networks, in its order.
CALLED = {
    "random_init": "untrained",
    "pixels": "raw pixels",
    "starting_weights": "its starting weights",
    "imagenet": "ImageNet weights",
    "from_scratch": "training from scratch",
}
_LONGER = "train longer"
_UNSURE = f"{_LONGER}, or judge by more labelled images"
# What to do, the most pressing first.
_ADVICE: dict[tuple[str, Outcome], str] = {
    ("random_init", "worse"): "lower --base-learning-rate, and look at the views (--crop-min, --hue)",
    ("pixels", "worse"): f"{_LONGER}; if that does not help, milder views (--crop-min, --hue, --grayscale-probability)",
    ("random_init", "undecided"): _UNSURE,
    ("pixels", "undecided"): _UNSURE,
    ("starting_weights", "worse"): "best_backbone.safetensors has the better weights; lower --base-learning-rate",
    ("starting_weights", "undecided"): _UNSURE,
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
    """One line: what the run is better than, not decided against, worse than, and what to do; None beside nothing."""
    if not compared:
        return None
    compared = sorted(compared, key=lambda each: list(CALLED).index(each.network))
    said = []
    for outcome, phrase in _PHRASES.items():
        names = [CALLED[each.network] + each.part for each in compared if each.outcome == outcome]
        if names:
            said.append(f"{phrase} {' and '.join(names)}")
    found = {(each.network, each.outcome) for each in compared}
    return f"{', '.join(said)}: {next((advice for case, advice in _ADVICE.items() if case in found), _WORTH)}"
