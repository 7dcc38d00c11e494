"""Does an encoder that never saw a reward know the state? Linear probes of CURL's features and of what they must beat.

N: samples   C: embedding width   S: side of a frame
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import gymnasium
import numpy as np
import torch
from examples.reinforcement_learning.crops import center_crop, random_crop
from examples.reinforcement_learning.curl import Contrast
from examples.reinforcement_learning.encoder import FEATURES, PixelEncoder
from examples.reinforcement_learning.frames import load_stacks
from examples.reinforcement_learning.settings import SMALL, Settings
from sklearn.linear_model import RidgeCV
from sklearn.metrics import r2_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn import functional

from moco.contrast import ema_update_, frozen_copy

HELD_OUT = 0.2  # of the episodes, the last ones
PENALTIES = np.logspace(-3, 4, 8)
POOLED = 12  # side to which raw pixels are averaged: 1,296 numbers of a stack, 26 times as many as a feature has
Draw = Callable[[], Tensor]


def report(path: Path, *, updates: int, seeds: Iterable[int], settings: Settings = SMALL) -> str:
    """A Markdown table: R² on held-out episodes, mean over the state's entries, for each encoder and seed.

    Raises:
        ValueError: as `load_stacks`; fewer than 5 episodes.
    """
    frames, places, states, episodes = load_stacks(path)
    if episodes[-1] < 4:
        raise ValueError(f"{path}: {episodes[-1] + 1} episodes: need at least 5, since whole ones are held out")
    train = episodes < np.quantile(np.unique(episodes), 1 - HELD_OUT)
    moving = states[train].std(axis=0) > 1e-6  # a constant entry has no R²
    rows: dict[str, list[np.ndarray]] = {}
    for seed in seeds:
        for name, encode in _encoders(frames, places[train], updates, seed, settings):
            features_NC = _features(encode, frames, places)
            rows.setdefault(name, []).append(probe(features_NC, states[:, moving], train))
    lines = ["| features | R², mean | entries of the state |", "| --- | --- | --- |"]
    for name, found in rows.items():
        means = [entries.mean() for entries in found]
        entries = " ".join(f"{value:.2f}" for value in np.mean(found, axis=0))
        lines.append(f"| {name} | {np.mean(means):.3f} ± {np.std(means):.3f} | {entries} |")
    return "\n".join(lines)


def probe(features_NC: np.ndarray, states: np.ndarray, train: np.ndarray) -> np.ndarray:
    """R² of each entry of the state by ridge regression, on the samples that `train` leaves out."""
    model = make_pipeline(StandardScaler(), RidgeCV(PENALTIES)).fit(features_NC[train], states[train])
    return r2_score(states[~train], model.predict(features_NC[~train]), multioutput="raw_values")


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
    side = settings.crop // 4
    decoder = nn.Sequential(nn.Linear(FEATURES, 256), nn.ReLU(), nn.Linear(256, 9 * side * side))
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=settings.learning_rate)
    for _ in range(updates):
        x = random_crop(draw(), settings.crop, last_offset=settings.last_offset)
        goal = functional.adaptive_avg_pool2d(x, side).flatten(1)
        loss = functional.mse_loss(decoder(encoder(x)), goal)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def _encoders(
    frames: np.ndarray, places: np.ndarray, updates: int, seed: int, settings: Settings
) -> Iterable[tuple[str, Callable[[Tensor], Tensor]]]:
    size = frames.shape[-1]
    space = gymnasium.spaces.Box(0, 255, (frames.shape[1] * places.shape[1], size, size), np.uint8)

    def draw() -> Tensor:
        return _stack(frames, places[torch.randint(len(places), (settings.batch_size,)).numpy()])

    def fresh() -> PixelEncoder:
        torch.manual_seed(seed)
        return PixelEncoder(space, crop=settings.crop, network=settings.network)

    yield "raw pixels, 12 x 12", lambda x: _pooled(x, settings.crop)
    yield "random encoder", fresh()
    for name, learn in (("autoencoder", autoencoder), ("CURL's loss alone", contrastive)):
        encoder = fresh()
        learn(encoder, draw, updates, settings)
        yield name, encoder


def _pooled(x: Tensor, crop: int) -> Tensor:
    return functional.adaptive_avg_pool2d(center_crop(x, crop), POOLED).flatten(1)


@torch.no_grad()
def _features(encode: Callable[[Tensor], Tensor], frames: np.ndarray, places: np.ndarray) -> np.ndarray:
    return np.concatenate([encode(_stack(frames, places[i : i + 256])).numpy() for i in range(0, len(places), 256)])


def _stack(frames: np.ndarray, places: np.ndarray) -> Tensor:
    return torch.from_numpy(frames[places].reshape(len(places), -1, *frames.shape[-2:])).float() / 255
