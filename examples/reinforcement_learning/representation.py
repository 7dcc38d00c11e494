"""Does an encoder that never saw a reward know the state? Linear probes of CURL's features and of what they must beat.

N: samples   C: embedding width   S: side of a frame
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import gymnasium
import numpy as np
import torch
from examples.reinforcement_learning.crops import center_crop, random_crop
from examples.reinforcement_learning.curl import Contrast
from examples.reinforcement_learning.encoder import FEATURES, PixelEncoder
from examples.reinforcement_learning.frames import load_stacks
from examples.reinforcement_learning.settings import PAPER, SMALL, Settings
from sklearn.linear_model import RidgeCV
from sklearn.metrics import r2_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn import functional

import moco
from moco.contrast import ema_update_, frozen_copy

PENALTIES = np.logspace(-3, 4, 8)
POOLED = 12  # side to which raw pixels are averaged: 1,296 numbers of a stack, 26 times as many as a feature has
Draw = Callable[[], Tensor]
Encode = Callable[[np.ndarray], Tensor]  # (N, C, S, S) uint8 to (N, D)


def report(
    path: Path, *, updates: int, seeds: Iterable[int], settings: Settings = SMALL, weights: Sequence[Path] = ()
) -> str:
    """A Markdown table: R² on held-out episodes, mean over the state's entries, for each encoder and seed.

    With `weights`, which `moco pretrain --recipe curl` wrote, theirs is a row each, beside encoders of their form
    instead of those of `settings`.

    Raises:
        ValueError: as `load_stacks`; weights for other frames than these, or for windows of several sizes.
        MocoError: weights that cannot be read.
    """
    stacks = load_stacks(path)
    trained = {str(run): moco.load(run) for run in weights}
    if trained:
        settings = _form_of(trained.values(), stacks.images, settings)
    moving = stacks.states.std(axis=0) > 1e-6  # a constant entry has no R²
    known, asked = stacks.states[:, moving], stacks.test_states[:, moving]
    rows: dict[str, list[np.ndarray]] = {}
    for seed in seeds:
        for name, encode in _encoders(stacks.images, updates, seed, settings, contrast=not trained):
            found = probe(_features(encode, stacks.images), known, _features(encode, stacks.test_images), asked)
            rows.setdefault(name, []).append(found)
    for name, model in trained.items():
        encode = _prepared(model)
        found = probe(_features(encode, stacks.images), known, _features(encode, stacks.test_images), asked)
        rows[f"moco pretrain: {name}"] = [found]
    lines = ["| features | R², mean | entries of the state |", "| --- | --- | --- |"]
    for name, values in rows.items():
        means = [entries.mean() for entries in values]
        entries = " ".join(f"{value:.2f}" for value in np.mean(values, axis=0))
        lines.append(f"| {name} | {np.mean(means):.3f} ± {np.std(means):.3f} | {entries} |")
    return "\n".join(lines)


def probe(features_NC: np.ndarray, states: np.ndarray, test_NC: np.ndarray, test_states: np.ndarray) -> np.ndarray:
    """R² of each entry of the state by ridge regression, on the samples of the test part."""
    model = make_pipeline(StandardScaler(), RidgeCV(PENALTIES)).fit(features_NC, states)
    return r2_score(test_states, model.predict(test_NC), multioutput="raw_values")


def contrastive(encoder: PixelEncoder, draw: Draw, updates: int, settings: Settings) -> None:
    """Train on CURL's loss alone, its momentum encoder every second update as in the agent."""
    encoder_k = frozen_copy(encoder)
    rate, adams = settings.learning_rate, settings.encoder_adams
    contrast = Contrast(encoder, embedding_dim=FEATURES, learning_rate=rate, encoder_adams=adams)
    for update in range(updates):
        frames = draw()
        x_q, x_k = (random_crop(frames, settings.crop, last_offset=settings.last_offset) for _ in range(2))
        contrast.step(encoder, encoder_k, x_q, x_k)
        if update % 2 == 0:
            ema_update_(encoder_k, encoder, key_momentum=1 - settings.encoder_tau)


def autoencoder(encoder: PixelEncoder, draw: Draw, updates: int, settings: Settings) -> None:
    """Train to give the crop back, through a decoder of two linear layers at a quarter of the side."""
    side, channels = settings.crop // 4, encoder.convolutions[0].in_channels
    decoder = nn.Sequential(nn.Linear(FEATURES, 256), nn.ReLU(), nn.Linear(256, channels * side * side))
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=settings.learning_rate)
    for _ in range(updates):
        x = random_crop(draw(), settings.crop, last_offset=settings.last_offset)
        goal = functional.adaptive_avg_pool2d(x, side).flatten(1)
        loss = functional.mse_loss(decoder(encoder(x)), goal)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def _encoders(
    images: np.ndarray, updates: int, seed: int, settings: Settings, *, contrast: bool
) -> Iterator[tuple[str, Encode]]:
    space = gymnasium.spaces.Box(0, 255, images.shape[1:], np.uint8)

    def draw() -> Tensor:
        return _scaled(images[torch.randint(len(images), (settings.batch_size,)).numpy()])

    def fresh() -> PixelEncoder:
        torch.manual_seed(seed)
        return PixelEncoder(space, crop=settings.crop, network=settings.network)

    yield "raw pixels, 12 x 12", lambda x: _pooled(_scaled(x), settings.crop)
    yield "random encoder", _after(fresh())
    for name, learn in (("autoencoder", autoencoder), ("CURL's loss alone", contrastive))[: 1 + contrast]:
        encoder = fresh()
        learn(encoder, draw, updates, settings)
        yield name, _after(encoder)


def _form_of(models: Iterable[moco.Pretrained], images: np.ndarray, settings: Settings) -> Settings:
    """The paper's network for the windows that these weights take, cut from these frames."""
    sizes, channels = {model.image_size for model in models}, {model.channels for model in models}
    size = next(iter(sizes))
    if len(sizes) > 1 or channels != {images.shape[1]} or not isinstance(size, int) or size >= images.shape[-1]:
        raise ValueError(
            f"weights for images of {_listed(sizes)} pixels and {_listed(channels)} channels, frames of "
            f"{images.shape[-1]} pixels and {images.shape[1]} channels: need weights of one size, smaller than the "
            "frames, and of their channels"
        )
    return replace(PAPER, size=images.shape[-1], crop=size, batch_size=settings.batch_size)


def _listed(values: Iterable[object]) -> str:
    return " and ".join(sorted(map(str, values)))


def _after(encoder: PixelEncoder) -> Encode:
    return lambda x: encoder(_scaled(x))


def _prepared(model: moco.Pretrained) -> Encode:
    return lambda x: model(model.preprocess(torch.from_numpy(x)))


def _pooled(x: Tensor, crop: int) -> Tensor:
    return functional.adaptive_avg_pool2d(center_crop(x, crop), POOLED).flatten(1)


@torch.no_grad()
def _features(encode: Encode, images: np.ndarray) -> np.ndarray:
    return np.concatenate([encode(images[i : i + 256]).numpy() for i in range(0, len(images), 256)])


def _scaled(images: np.ndarray) -> Tensor:
    return torch.from_numpy(images).float() / 255
