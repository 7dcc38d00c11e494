"""Frames of random actions with the true states beside them, in one .npz."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from examples.reinforcement_learning.environment import CHANNELS, make
from tqdm import trange


def collect(task: str, count: int, out: Path, *, size: int, action_repeat: int | None = None, seed: int = 0) -> None:
    """Write `frames` (n, 3, size, size) uint8, `states` (n, d) and `episodes` (n,), n = `count`, to `out`.

    Raises:
        ValueError: no frames wanted.
        PixelError: as `environment.make`.
    """
    if count < 1:
        raise ValueError(f"count={count}: need at least 1 frame")
    env = make(task, size=size, action_repeat=action_repeat, seed=seed)
    env.action_space.seed(seed)
    frames = np.empty((count, CHANNELS, size, size), np.uint8)
    states, episodes = [], np.empty(count, np.int64)
    observation, episode, ended = env.reset()[0], 0, False
    for i in trange(count, unit="frame", mininterval=5):
        if ended:
            observation, episode = env.reset()[0], episode + 1
        frames[i], episodes[i] = observation[-CHANNELS:], episode
        states.append(env.true_state)
        observation, _, terminated, truncated, _ = env.step(env.action_space.sample())
        ended = terminated or truncated
    env.close()
    with out.open("wb") as file:
        np.savez(file, frames=frames, states=np.stack(states), episodes=episodes)


def load_stacks(path: Path, *, stack: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Frames, places (n, stack) of each stack in them, states and episodes; an episode's first frame is repeated.

    Raises:
        ValueError: not a file of `collect`.
    """
    with np.load(path, allow_pickle=False) as stored:
        missing = {"frames", "states", "episodes"} - set(stored.files)
        if missing:
            raise ValueError(f"{path}: no {', '.join(sorted(missing))}: expected a file that `frames` wrote")
        frames, states, episodes = (stored[name] for name in ("frames", "states", "episodes"))
    places = np.arange(len(frames))
    first = np.searchsorted(episodes, episodes)
    return frames, np.maximum(places[:, None] - np.arange(stack)[::-1], first[:, None]), states, episodes
