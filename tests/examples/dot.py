"""A tiny environment with pixels: a bright dot that the action pushes; the reward is how far right it is."""

from __future__ import annotations

import gymnasium
import numpy as np

SIDE = 24


class Dot(gymnasium.Env):
    """Episodes of `length` steps end by time; their number decides where they start, so that a run can resume."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    render_mode = "rgb_array"
    action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    observation_space = gymnasium.spaces.Box(0, SIDE, (2,), np.float32)

    def __init__(self, *, length: int = 10, seed: int = 0, first_episode: int = 0) -> None:
        self.length, self.seed, self.first, self.episode = length, seed, first_episode, first_episode

    def reset(self, *, seed=None, options=None):
        """A new position."""
        if seed is not None:
            self.seed, self.episode = seed, self.first
        self.place = np.random.default_rng([self.seed, self.episode]).uniform(4, SIDE - 4, 2)
        self.episode, self.time = self.episode + 1, 0
        return self.place.astype(np.float32), {}

    def step(self, action):
        """Push."""
        self.place = np.clip(self.place + action, 1, SIDE - 2)
        self.time += 1
        return self.place.astype(np.float32), float(self.place[0] / SIDE), False, self.time >= self.length, {}

    def render(self):
        """The dot and a shade that tells the time."""
        frame = np.full((SIDE, SIDE, 3), self.time, np.uint8)
        x, y = self.place.astype(int)
        frame[y - 1 : y + 2, x - 1 : x + 2] = 255
        return frame
