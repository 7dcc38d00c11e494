"""A replay buffer that keeps every frame once: observations are stacks of frames, and neighbours share all but one.

A place of the ring holds a frame and what followed it: action, reward, end. Two stacks of 3 frames of 100 x 100 pixels
for each of 100,000 steps would take 18 GB, the frames themselves 3.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from examples.reinforcement_learning.environment import CHANNELS
from stable_baselines3.common.buffers import BaseBuffer, ReplayBuffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from torch import Tensor

ARRAYS = ("frames", "actions", "rewards", "ends", "ages", "usable")


class FrameReplay(ReplayBuffer):
    """Stable-Baselines3's replay buffer for one environment of `environment.Pixels`.

    Sampling draws from PyTorch's generator and gives uint8 frames. An end by time is none: its value is bootstrapped.
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: gymnasium.spaces.Box,
        action_space: gymnasium.spaces.Box,
        device: torch.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
    ) -> None:
        BaseBuffer.__init__(self, buffer_size, observation_space, action_space, device, n_envs)
        if n_envs != 1 or optimize_memory_usage:
            raise ValueError(f"n_envs={n_envs}, optimize_memory_usage={optimize_memory_usage}: expected 1 and False")
        channels, height, width = observation_space.shape
        self.stack = channels // CHANNELS
        if buffer_size < 2 * self.stack:
            raise ValueError(f"buffer of {buffer_size}: need at least {2 * self.stack} places for stacked frames")
        self.frames = np.zeros((buffer_size, CHANNELS, height, width), np.uint8)
        self.actions = np.zeros((buffer_size, self.action_dim), np.float32)
        self.rewards = np.zeros(buffer_size, np.float32)
        self.ends = np.zeros(buffer_size, np.float32)
        self.ages = np.zeros(buffer_size, np.int64)  # frames of the same episode before this one
        self.usable = np.zeros(buffer_size, bool)  # a whole transition begins here
        self.fresh = True  # the next observation begins an episode

    def add(
        self,
        obs: np.ndarray,
        next_obs: np.ndarray,
        action: np.ndarray,
        reward: np.ndarray,
        done: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        """A step of the environment, as `OffPolicyAlgorithm` hands it over, a leading axis of 1 on everything."""
        if self.fresh:
            self._push(obs[0, -CHANNELS:], age=0)
        at = (self.pos - 1) % self.buffer_size
        self.actions[at], self.rewards[at] = action[0], reward[0]
        self.ends[at] = bool(done[0]) and not infos[0].get("TimeLimit.truncated", False)
        self._push(next_obs[0, -CHANNELS:], age=self.ages[at] + 1)
        self.usable[at] = True
        self.fresh = bool(done[0])

    def _push(self, frame: np.ndarray, *, age: int) -> None:
        self.frames[self.pos], self.ages[self.pos] = frame, age
        # Overwriting a frame spoils the transitions whose stacks reach back to it.
        self.usable[(self.pos + np.arange(self.stack)) % self.buffer_size] = False
        self.pos += 1
        if self.pos == self.buffer_size:
            self.full, self.pos = True, 0

    def sample(self, batch_size: int, env: Any = None) -> ReplayBufferSamples:
        """Uniform transitions; observations (N, 3 * stack, S, S) uint8 on the device.

        Raises:
            ValueError: nothing to sample.
        """
        places = np.flatnonzero(self.usable)
        if not len(places):
            raise ValueError("the replay buffer holds no transition: collect steps before the first update")
        chosen = places[torch.randint(len(places), (batch_size,)).numpy()]
        floats = (self.actions[chosen], self.ends[chosen, None], self.rewards[chosen, None])
        actions, ends, rewards = (torch.from_numpy(values).to(self.device) for values in floats)
        following = (chosen + 1) % self.buffer_size
        return ReplayBufferSamples(self._stacks(chosen), actions, self._stacks(following), ends, rewards)

    def _stacks(self, newest: np.ndarray) -> Tensor:
        back = np.minimum(np.arange(self.stack)[::-1], self.ages[newest, None])  # the first frame is repeated
        frames = self.frames[(newest[:, None] - back) % self.buffer_size]
        return torch.from_numpy(frames.reshape(len(newest), -1, *frames.shape[-2:])).to(self.device)

    def save(self, path: Path) -> None:
        """What is filled, as an .npz without pickled objects."""
        filled = self.buffer_size if self.full else self.pos
        arrays = {name: getattr(self, name)[:filled] for name in ARRAYS}
        with path.open("wb") as file:
            np.savez(file, position=np.array([self.pos, self.full]), **arrays)

    def load(self, path: Path) -> None:
        """What `save` wrote; the step after it begins an episode.

        Raises:
            ValueError: of another size.
        """
        with np.load(path, allow_pickle=False) as stored:
            self.pos, self.full = int(stored["position"][0]), bool(stored["position"][1])
            for name in ARRAYS:
                array = getattr(self, name)
                if stored[name].shape[1:] != array.shape[1:] or len(stored[name]) > len(array):
                    raise ValueError(f"{path}: {name} {stored[name].shape}, expected {array.shape}: made otherwise")
                array[: len(stored[name])] = stored[name]
        self.fresh = True
