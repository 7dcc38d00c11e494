"""Pixels out of a task: DeepMind Control tasks, or any gymnasium environment that renders arrays.

A step of the agent repeats its action; frames are uint8, channels first, the newest `stack` of them one observation.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from typing import Any

import gymnasium
import numpy as np
from PIL import Image

# Of Laskin et al. 2020; tasks that it does not name get 4.
ACTION_REPEAT = {"cartpole": 8, "reacher": 4, "cheetah": 4, "ball_in_cup": 4, "finger": 2, "walker": 2}
CHANNELS = 3
COARSE = 64  # frames of this side, in pixels, and smaller are drawn with fewer facets


class PixelError(ValueError):
    """An environment that cannot be learned from pixels; one line with the remedy."""


class ControlTask(gymnasium.Env):
    """A task of the DeepMind Control Suite, "domain-task": observes the true state, renders frames.

    Rendering in software is what limits the rate, so multisampling, shadows and reflections are off (figures in
    docs/log.md). Episodes are numbered: number e of seed s is the same wherever a run resumes.
    """

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 - the form that gymnasium gives it
    render_mode = "rgb_array"

    def __init__(self, name: str, *, size: int, seed: int = 0, first_episode: int = 0) -> None:
        suite = _load_suite()

        domain, _, task = name.partition("-")
        if (domain, task) not in suite.ALL_TASKS:
            known = ", ".join(f"{d}-{t}" for d, t in suite.BENCHMARKING)
            raise PixelError(f"task {name!r}: expected one of {known}")
        self._task = suite.load(domain, task, task_kwargs={"random": seed})
        self._seed, self._first, self._episode, self._size = seed, first_episode, first_episode, size
        quality, model = self._task.physics.model.vis.quality, self._task.physics.model
        quality.offsamples, quality.shadowsize, model.mat_reflectance[:] = 0, 0, 0
        if size <= COARSE:
            quality.numslices, quality.numstacks = 16, 8  # of 28 and 16: a slack string is 27 cylinders
        actions = self._task.action_spec()
        self.action_space = gymnasium.spaces.Box(
            actions.minimum.astype(np.float32), actions.maximum.astype(np.float32), dtype=np.float32
        )
        width = sum(int(np.prod(part.shape)) for part in self._task.observation_spec().values())
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (width,), np.float32)
        self._camera_id = 1 if domain == "quadruped" else 0
        self._camera: Any = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Start the next episode; a seed starts their count anew, from the first episode."""
        if seed is not None:
            self._seed, self._episode = seed, self._first
        self._task.task.random.seed([self._seed, self._episode])
        self._episode += 1
        return _state(self._task.reset()), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        """One control step. The suite's tasks end by time, but for the few whose discount falls to 0."""
        now = self._task.step(np.asarray(action, np.float64))
        ended = now.last() and now.discount == 0
        return _state(now), float(now.reward or 0), bool(ended), bool(now.last() and not ended), {}

    def render(self) -> np.ndarray:
        """The present frame, (size, size, 3) uint8."""
        if self._camera is None:  # made once: `physics.render` makes one for each frame, two thirds of its time
            from dm_control.mujoco import Camera

            self._camera = Camera(self._task.physics, self._size, self._size, camera_id=self._camera_id)
        return self._camera.render().copy()  # it draws into one array

    def close(self) -> None:
        """Free the renderer."""
        self._task.close()


class Pixels(gymnasium.Wrapper):
    """Observations are the newest frames, (3 * stack, size, size) uint8; each action is repeated, rewards summed.

    Args:
        env: made with `render_mode="rgb_array"`; frames of another size are resized.
        size: of a frame's side, in pixels.
        action_repeat: environment steps of one agent step.
        stack: frames of an observation; an episode starts with its first frame repeated.
        any_actions: take discrete ones too, for whoever does not learn by SAC.

    Attributes:
        true_state: what the environment itself observes, last; a probe's target.

    Raises:
        PixelError: no frames, frames of changing size, or discrete actions.
    """

    def __init__(
        self, env: gymnasium.Env, *, size: int, action_repeat: int = 1, stack: int = 3, any_actions: bool = False
    ) -> None:
        super().__init__(env)
        if env.render_mode != "rgb_array":
            raise PixelError(f"{env}: render_mode={env.render_mode!r}, expected 'rgb_array': make it with that mode")
        if not any_actions and not isinstance(env.action_space, gymnasium.spaces.Box):
            raise PixelError(f"{env}: actions {env.action_space}, expected a Box: SAC needs continuous actions")
        if action_repeat < 1 or stack < 1 or size < 1:
            raise PixelError(f"size={size}, action_repeat={action_repeat}, stack={stack}: need at least 1 each")
        self.action_repeat, self._size = action_repeat, size
        self._frames: deque[np.ndarray] = deque(maxlen=stack)
        self._shape: tuple[int, ...] | None = None
        self.observation_space = gymnasium.spaces.Box(0, 255, (CHANNELS * stack, size, size), np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """As `gymnasium.Env.reset`."""
        self.true_state, info = self.env.reset(seed=seed, options=options)
        self._frames.extend([self._frame()] * self._frames.maxlen)
        return np.concatenate(self._frames), info

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        """As `gymnasium.Env.step`, for `action_repeat` steps or to the episode's end."""
        total, info = 0.0, {}
        for _ in range(self.action_repeat):
            self.true_state, reward, terminated, truncated, info = self.env.step(action)
            total += float(reward)
            if terminated or truncated:
                break
        self._frames.append(self._frame())
        return np.concatenate(self._frames), total, terminated, truncated, info

    def _frame(self) -> np.ndarray:
        try:
            frame = np.asarray(self.env.render())
        except gymnasium.error.Error as error:  # a library that draws is missing
            raise PixelError(f"{self.env}: no frame ({_first_line(error)})") from error
        if frame.ndim != 3 or frame.shape[2] != CHANNELS or frame.dtype != np.uint8:
            raise PixelError(f"frame {frame.dtype} {frame.shape}: expected uint8 (height, width, 3); wrap `render` so")
        if self._shape is None:
            self._shape = frame.shape
        if frame.shape != self._shape:
            raise PixelError(f"a frame of {frame.shape} after {self._shape}: fix the size of the environment's window")
        if frame.shape[:2] != (self._size, self._size):
            frame = np.asarray(Image.fromarray(frame).resize((self._size, self._size), Image.Resampling.BOX))
        return frame.transpose(2, 0, 1)


def make(
    name: str,
    *,
    size: int,
    action_repeat: int | None = None,
    seed: int = 0,
    first_episode: int = 0,
    any_actions: bool = False,
) -> Pixels:
    """A task by name: "ball_in_cup-catch" of the Control Suite, or "gymnasium:ID" for a registered environment.

    `first_episode` is for Control Suite tasks, whose episodes are numbered; others start from the seed.

    Raises:
        PixelError: as `Pixels`, or an environment that cannot be made.
    """
    if name.startswith("gymnasium:"):
        try:
            env = gymnasium.make(name.partition(":")[2], render_mode="rgb_array")
        except (gymnasium.error.Error, ImportError, TypeError) as error:  # also of a constructor without render_mode
            raise PixelError(f"task {name!r}: it cannot be made with pixels ({_first_line(error)})") from error
        return Pixels(env, size=size, action_repeat=action_repeat or 1, any_actions=any_actions)
    env = ControlTask(name, size=size, seed=seed, first_episode=first_episode)
    return Pixels(env, size=size, action_repeat=action_repeat or ACTION_REPEAT.get(name.partition("-")[0], 4))


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _load_suite() -> Any:
    os.environ.setdefault("MUJOCO_GL", "egl")
    os.environ.setdefault("LP_NUM_THREADS", "0")  # of Mesa in software: frames this small are not worth threads
    # Mesa's software renderer and PyTorch's triton bring an LLVM each; triton second is a segmentation fault.
    with contextlib.suppress(ImportError):
        import triton  # noqa: F401
    from dm_control import suite

    return suite


def _state(now: Any) -> np.ndarray:
    return np.concatenate([np.ravel(part) for part in now.observation.values()]).astype(np.float32)
