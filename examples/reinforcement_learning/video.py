"""An episode of a trained policy, as the policy sees it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from examples.reinforcement_learning.environment import CHANNELS, make
from examples.reinforcement_learning.runs import EVALUATION_SEED, SETTINGS, load_policy
from PIL import Image

ENLARGED = 4
MILLISECONDS = 60


def record(folder: Path, out: Path) -> float:
    """Write an animation, .webp or .gif, of one evaluation episode by the mean action; returns its return.

    Raises:
        ValueError: as `runs.load_policy`.
        FileNotFoundError: no run in the folder.
    """
    stored = json.loads((folder / SETTINGS).read_text("utf-8"))
    env = make(stored["task"], size=stored["size"], action_repeat=stored["action_repeat"], seed=EVALUATION_SEED)
    agent = load_policy(folder, env)
    (observation, _), total, ended, images = env.reset(), 0.0, False, []
    while not ended:
        frame = Image.fromarray(np.ascontiguousarray(observation[-CHANNELS:].transpose(1, 2, 0)))
        images.append(frame.resize((frame.width * ENLARGED, frame.height * ENLARGED), Image.Resampling.NEAREST))
        action, _ = agent.predict(observation, deterministic=True)
        observation, reward, terminated, truncated, _ = env.step(action)
        total, ended = total + reward, terminated or truncated
    env.close()
    images[0].save(out, save_all=True, append_images=images[1:], duration=MILLISECONDS, loop=0)
    return total
