"""Who is measured: the run, and the networks of its architecture that it has to beat."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from torch import nn

from moco.comparison.settings import Settings
from moco.comparison.subject import Subject
from moco.data.preprocess import Preprocessing
from moco.data.views import IMAGENET


@dataclasses.dataclass(frozen=True)
class Contender:
    """One network, or one for each seed.

    Attributes:
        network: run, random_init or imagenet.
        make: the backbone of a seed, in eval mode.
        preprocess: image to input.
        drawn: whether the seeds give different networks.
        head: features to embeddings; None where there is none.
    """

    network: str
    make: Callable[[int], nn.Module]
    preprocess: Preprocessing
    drawn: bool
    head: nn.Module | None = None


def contenders(subject: Subject, settings: Settings) -> tuple[list[Contender], list[str]]:
    """The run first, then its baselines as far as they are asked for, and what is missing."""
    if subject.trained:
        own = Contender("run", lambda seed: subject.backbone.module, subject.preprocess, False, subject.head)
    else:
        own = Contender("run", subject.random, subject.preprocess, True)
    if settings.baselines == "none":
        return [own], []
    found, notes = [own], []
    if subject.trained:
        found.append(Contender("random_init", subject.random, subject.preprocess, True))
    if settings.baselines != "random":
        weights = subject.imagenet(download=settings.download)
        if isinstance(weights, str):
            notes.append(f"ImageNet-supervised weights left out: {weights}")
        else:
            mean, std = IMAGENET
            preprocess = dataclasses.replace(subject.preprocess, mean=mean, std=std)
            found.append(Contender("imagenet", lambda seed: weights, preprocess, False))
    return found, notes
