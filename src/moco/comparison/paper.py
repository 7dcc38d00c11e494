"""The papers' linear probe on a task: random crops to learn, 256/224 and the centre crop to be asked."""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor, nn

from moco.comparison.bench import Bench, followed
from moco.comparison.contenders import Contender
from moco.comparison.progress import bar
from moco.comparison.settings import Settings
from moco.comparison.subject import Subject
from moco.comparison.task import Part, Task
from moco.data.cuts import PAPER_SCALE, batches_in_pass, paper_test_cut
from moco.evaluation.linear import BATCH_SIZE, linear_probe

_HELD_OUT = 0.2  # of the train images, to choose among several learning rates


def paper_answer(bench: Bench, subject: Subject, task: Task, contender: Contender, seed: int) -> Tensor:
    """Class of each test image, (M,); of several learning rates, that of the one best on held-out train images."""
    settings = bench.settings
    chosen, learnt = _divided(task.train, seed, sweep=len(settings.learning_rates) > 1)
    backbone = contender.make(seed).to(bench.device)
    one_pass = bench.one_pass(learnt, contender.preprocess, scale=PAPER_SCALE, batch_size=BATCH_SIZE, seed=seed)
    steps = settings.probe_epochs * batches_in_pass(len(learnt.images), BATCH_SIZE)
    with bar(f"linear probe, {contender.network}", steps, show=not settings.quiet) as progress:
        layers = linear_probe(
            backbone,
            followed(one_pass, progress.update),
            feature_dim=subject.backbone.feature_dim,
            num_classes=len(task.class_names),
            epochs=settings.probe_epochs,
            learning_rates=settings.learning_rates,
            seed=seed,
        )
    ask = functools.partial(_ask, bench, backbone, contender)
    layer = layers[0]
    if chosen is not None:
        features = ask(chosen, "held-out train images")
        right = [(_classes(layer, features) == chosen.targets).double().mean().item() for layer in layers]
        layer = layers[int(np.argmax(right))]
    return _classes(layer, ask(task.test, "test images"))


def paper_how(settings: Settings) -> str:
    """The protocol in a few words."""
    rates = ", ".join(f"{rate:g}" for rate in settings.learning_rates)
    swept = ", the best on a fifth of the train images" if len(settings.learning_rates) > 1 else ""
    return (
        f"SGD on the frozen backbone in eval mode, learning rate {rates}{swept}, batch {BATCH_SIZE}, "
        f"{settings.probe_epochs} epochs, x0.1 at 60 % and 80 %, random resized crops and flips, tested at 256/224 "
        "and centre crop; the backbone's tensors were the same afterwards, bit by bit"
    )


def _divided(train: Part, seed: int, *, sweep: bool) -> tuple[Part | None, Part]:
    """Held-out part (None without a sweep) and the part to learn from, the same share of every class."""
    if not sweep:
        return None, train
    order = np.random.default_rng(seed).permutation(len(train.images))
    labels = train.targets.numpy()[order]
    held_out = np.zeros(len(order), dtype=bool)
    for label in np.unique(labels):
        members = order[labels == label]
        held_out[members[: round(_HELD_OUT * len(members))]] = True
    return train.subset(np.flatnonzero(held_out)), train.subset(np.flatnonzero(~held_out))


def _ask(bench: Bench, backbone: nn.Module, contender: Contender, part: Part, what: str) -> Tensor:
    what = f"{what}, {contender.network}"
    return bench.features(backbone, part.images, contender.preprocess, what=what, cut=paper_test_cut)


@torch.no_grad()
def _classes(layer: nn.Linear, features: Tensor) -> Tensor:
    classes: Tensor = layer(features).argmax(dim=1)
    return classes
