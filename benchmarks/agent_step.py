"""What does a step of the reinforcement learning example's agents cost, part by part?

    python -m benchmarks.agent_step [--task ball_in_cup-catch] [--rounds 10] [--out FILE]

CPU time of this process on one thread, of which other programs take nothing, in milliseconds: a frame (as it is drawn,
and by dm_control's own call), an agent step without learning, and an update of each arm of the reduced form; `every`
is the arm curl with a contrastive step at every update. Arms alternate, four updates a round; medians.
Prints JSON, and writes it to --out. From the repository's root; needs the extra rl and rendering.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))

from examples.reinforcement_learning.agent import PixelSAC
from examples.reinforcement_learning.environment import make
from examples.reinforcement_learning.settings import ARMS, SMALL

from provenance import provenance

UPDATES, STEPS = 4, 60  # of a round; before the first update
REPEAT = 4


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--task", default="ball_in_cup-catch")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    torch.set_num_threads(1)
    stated = {"task": options.task, "rounds": options.rounds, "settings": str(SMALL)}
    milliseconds = measured(options.task, options.rounds)
    text = json.dumps(
        {"question": __doc__.partition("\n")[0], "options": stated, "cpu_ms": milliseconds, **provenance()}, indent=2
    )
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")


def measured(task: str, rounds: int) -> dict[str, float]:
    """Milliseconds of each part."""
    agents = {arm: agent(task, replace(SMALL, arm=arm)) for arm in ARMS}
    agents["every"] = agent(task, replace(SMALL, arm="curl", contrast_every=1))
    taken: dict[str, list[float]] = {name: [] for name in agents}
    for round_ in range(rounds + 1):
        for name, each in agents.items():
            taken[name].append(cpu_ms(lambda each=each: each.train(UPDATES, SMALL.batch_size)) / UPDATES)
        if round_ == 0:
            taken = {name: [] for name in agents}  # a warm-up
    found = {f"update, {name}": statistics.median(values) for name, values in taken.items()}
    acting = agents["sac"]
    acting.learning_starts, acting.train = 0, lambda *_, **__: None
    found["agent step, frame included"] = cpu_ms(lambda: acting.learn(STEPS, reset_num_timesteps=False)) / STEPS
    return {name: round(value, 2) for name, value in {**found, **frames(task)}.items()}


def frames(task: str) -> dict[str, float]:
    """A frame of both ways to draw it, over some steps of an episode."""
    env = make(task, size=SMALL.size, action_repeat=REPEAT)
    env.reset()
    env.action_space.seed(0)
    physics, taken = env.unwrapped._task.physics, {"frame": [], "frame by physics.render": []}
    for _ in range(STEPS):
        env.step(env.action_space.sample())
        taken["frame"].append(cpu_ms(env.unwrapped.render))
        taken["frame by physics.render"].append(cpu_ms(lambda: physics.render(SMALL.size, SMALL.size, camera_id=0)))
    return {name: statistics.fmean(values) for name, values in taken.items()}


def agent(task: str, settings: Any) -> PixelSAC:
    """One that has collected some steps."""
    settings = replace(settings, random_steps=STEPS + settings.batch_size)
    made = PixelSAC(make(task, size=settings.size, action_repeat=REPEAT), settings, seed=0, device="cpu")
    made.learn(settings.random_steps)
    return made


def cpu_ms(do: Callable[[], Any]) -> float:
    """Of one call."""
    began = time.process_time()
    do()
    return 1000 * (time.process_time() - began)


if __name__ == "__main__":
    main()
