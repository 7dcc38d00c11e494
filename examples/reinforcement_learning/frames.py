"""Stacked frames of random actions with the true states beside them, in one .npz that `moco pretrain` takes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import gymnasium
import numpy as np
from examples.reinforcement_learning.environment import Pixels, make
from tqdm import trange

TESTED = 0.2  # of the episodes, the last ones: nothing learns from them
LEAST_EPISODES = 5  # of which some can be kept out


class Stacks(NamedTuple):
    """What `collect` wrote.

    Attributes:
        images, test_images: (n, C, s, s) uint8, of the episodes to learn from and of the others.
        states, test_states: (n, d) float32.
    """

    images: np.ndarray
    states: np.ndarray
    test_images: np.ndarray
    test_states: np.ndarray


def collect(task: str, count: int, out: Path, *, size: int, action_repeat: int | None = None, seed: int = 0) -> str:
    """Write `count` observations of random actions to `out`, and return a line that says what it holds.

    `images` (n, 9, size, size) uint8, `states` (n, d) and `episodes` (n,); the last fifth of the episodes, from five
    on, as `test_images`, `test_states` and `test_episodes`, which `moco pretrain` does not learn from. Without states
    where the environment itself observes nothing but pixels.

    Raises:
        ValueError: no frames wanted, or a name that `moco pretrain` would not take.
        FileNotFoundError: no such folder.
        PixelError: as `environment.make`.
    """
    if count < 1 or out.suffix != ".npz":
        raise ValueError(f"count={count}, out={out}: need at least 1 frame and a name that ends with .npz")
    if not out.parent.is_dir():
        raise FileNotFoundError(f"{out.parent}: no such folder: make it first")
    env = make(task, size=size, action_repeat=action_repeat, seed=seed, any_actions=True)
    env.action_space.seed(seed)
    images = np.empty((count, *env.observation_space.shape), np.uint8)
    states, episodes = [], np.empty(count, np.int64)
    observation, episode, ended = env.reset(seed=seed)[0], 0, False
    for i in trange(count, unit="frame", mininterval=5):
        if ended:
            observation, episode = env.reset()[0], episode + 1
        images[i], episodes[i] = observation, episode
        states.append(_true_state(env))
        observation, _, terminated, truncated, _ = env.step(env.action_space.sample())
        ended = terminated or truncated
    env.close()
    arrays = {"images": images, "episodes": episodes} | ({} if states[0] is None else {"states": np.stack(states)})
    return _write(out, arrays)


def load_stacks(path: Path) -> Stacks:
    """What a probe needs of a file of `collect`.

    Raises:
        ValueError: not such a file, or one without states or episodes that were kept out.
    """
    with np.load(path, allow_pickle=False) as stored:
        missing = [name for name in Stacks._fields if name not in stored.files]
        if missing:
            raise ValueError(
                f"{path}: no {', '.join(missing)}: expected a file that `frames` wrote, of an environment with a true "
                f"state and of {LEAST_EPISODES} episodes or more"
            )
        return Stacks(*(stored[name] for name in Stacks._fields))


def _true_state(env: Pixels) -> np.ndarray | None:
    """What the environment itself observes, as numbers; None where it is a picture."""
    space = env.env.observation_space
    if isinstance(space, gymnasium.spaces.Box) and len(space.shape) > 1:
        return None
    return np.asarray(gymnasium.spaces.flatten(space, env.true_state), np.float32)


def _write(out: Path, arrays: dict[str, np.ndarray]) -> str:
    count, stacked, *size = arrays["images"].shape
    episodes = int(arrays["episodes"][-1]) + 1
    kept_out = int(TESTED * episodes) if episodes >= LEAST_EPISODES else 0
    first = int(np.searchsorted(arrays["episodes"], episodes - kept_out))
    parts = {name: values[:first] for name, values in arrays.items()}
    parts |= {f"test_{name}": values[first:] for name, values in arrays.items() if kept_out}
    partial = out.with_name(f".{out.name}.partial")
    with partial.open("wb") as file:
        np.savez(file, **parts)
    os.replace(partial, out)
    known = f"{arrays['states'].shape[1]} numbers of the true state" if "states" in arrays else "no true state"
    return (
        f"{out}: {first:,} images of {stacked} channels, {size[0]} x {size[1]} pixels, and {count - first:,} of "
        f"{kept_out} episodes kept out; {known}"
    )
