"""One run in a folder: train in rounds, evaluate after each, resume where it stopped; and grids of runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from examples.reinforcement_learning.agent import PixelSAC
from examples.reinforcement_learning.environment import Pixels, make
from examples.reinforcement_learning.settings import Settings
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

SETTINGS, RETURNS, STATE, REPLAY, POLICY = "settings.json", "returns.jsonl", "state.pt", "replay.npz", "policy.pt"
EVALUATION_SEED = 1_000_003  # far from those of training, so that no episode is seen in both
MakeEnvironment = Callable[..., Pixels]


def train(
    out: Path,
    task: str,
    settings: Settings,
    *,
    seed: int = 0,
    steps: int = 100_000,
    evaluate_every: int = 10_000,
    episodes: int = 5,
    minutes: float | None = None,
    device: str = "auto",
    make_environment: MakeEnvironment = make,
) -> bool:
    """Train to `steps` environment steps, on from what `out` holds of the run. Returns whether it is finished.

    Args:
        steps, evaluate_every: environment steps: agent steps times action repeat.
        episodes: evaluated after each round, by the mean action; always the same ones.
        minutes: stop after the round in which they are over; None: only at the end.
        make_environment: for a task that `environment.make` does not know.

    Raises:
        ValueError: a folder of another run, or a round that holds no agent step.
    """
    out.mkdir(parents=True, exist_ok=True)
    _same_run(out / SETTINGS, {"task": task, "seed": seed, **asdict(settings)})
    if (out / POLICY).exists() and _env_steps(out) >= steps:
        return True
    agent, judge = _start(out, task, settings, seed, device, make_environment)
    if evaluate_every < (repeat := judge.env.action_repeat):
        raise ValueError(f"evaluate_every={evaluate_every}: need at least {repeat}, one step of the agent")
    _rounds(out, agent, judge, steps, evaluate_every // repeat, episodes, minutes)
    for each in (agent.get_env(), judge):
        each.close()
    if _env_steps(out) < steps:
        return False
    for name in (STATE, REPLAY):  # the policy is kept, the gigabytes of replay are not
        (out / name).unlink(missing_ok=True)
    return True


def _rounds(
    out: Path, agent: PixelSAC, judge: Monitor, steps: int, length: int, episodes: int, minutes: float | None
) -> None:
    """Learn and evaluate in rounds of `length` agent steps, until the steps or the minutes are over."""
    started, repeat = time.monotonic(), judge.env.action_repeat
    while (left := steps - agent.num_timesteps * repeat) > 0:
        agent.learn(min(length, -(-left // repeat)), log_interval=None, reset_num_timesteps=False)
        _after_round(out, agent, _evaluate(agent, judge, episodes), repeat, started)
        if minutes is not None and time.monotonic() - started > 60 * minutes:
            return


def _start(
    out: Path, task: str, settings: Settings, seed: int, device: str, make_environment: MakeEnvironment
) -> tuple[PixelSAC, Monitor]:
    """The agent, new or as `out` has it, and the environment that judges it."""
    state = _stored_state(out)
    options: dict[str, Any] = {"size": settings.size, "action_repeat": settings.action_repeat}
    env = make_environment(task, seed=seed, first_episode=0 if state is None else state["counts"][2], **options)
    agent = PixelSAC(env, settings, seed=seed, device=device)
    if state is not None:
        agent.replay_buffer.load(out / REPLAY)
        agent.load_state(state)
    return agent, Monitor(make_environment(task, seed=EVALUATION_SEED, **options))


def grid(
    out: Path, tasks: Iterable[str], arms: Iterable[str], seeds: Iterable[int], options: list[str], *, jobs: int = 1
) -> bool:
    """Every run of tasks x arms x seeds, `jobs` at a time in processes of their own; finished ones are left alone.

    All seeds' first runs come first, so that a grid that is stopped early compares all arms.

    Returns:
        Whether every run is finished.
    """
    plan = [(task, arm, seed) for seed in seeds for task in tasks for arm in arms]

    def run(item: tuple[str, str, int]) -> bool:
        task, arm, seed = item
        folder = out / task / arm / f"seed{seed}"
        words = ["train", "--task", task, "--arm", arm, "--seed", str(seed), "--out", str(folder), *options]
        return subprocess.run([sys.executable, "-m", "examples.reinforcement_learning", *words]).returncode == 0

    with ThreadPoolExecutor(jobs) as pool:
        return all(list(pool.map(run, plan)))


def load_policy(folder: Path, environment: gymnasium.Env) -> PixelSAC:
    """The agent of a run, for acting.

    Raises:
        ValueError: no policy in the folder.
    """
    if not (folder / POLICY).exists():
        raise ValueError(f"{folder}: no {POLICY}: expected a run's folder, after its first evaluation")
    stored = json.loads((folder / SETTINGS).read_text("utf-8"))
    seed = stored.pop("seed")
    del stored["task"]
    stored["buffer"] = 16  # nothing is learnt here
    agent = PixelSAC(environment, Settings(**stored), seed=seed, device="cpu")
    agent.policy.load_state_dict(torch.load(folder / POLICY, weights_only=True, map_location="cpu"))
    return agent


def evaluate(folder: Path, episodes: int, *, make_environment: MakeEnvironment = make) -> list[float]:
    """Returns of so many episodes by the mean action of a run's last policy; others than those of its curve.

    Raises:
        ValueError: no episodes, or as `load_policy`.
        FileNotFoundError: no run in the folder.
    """
    if episodes < 1:
        raise ValueError(f"episodes={episodes}: need at least 1")
    stored = json.loads((folder / SETTINGS).read_text("utf-8"))
    options = {"size": stored["size"], "action_repeat": stored["action_repeat"]}
    env = Monitor(make_environment(stored["task"], seed=EVALUATION_SEED + 1, **options))
    returns, _ = evaluate_policy(load_policy(folder, env), env, n_eval_episodes=episodes, return_episode_rewards=True)
    env.close()
    return [float(value) for value in returns]


def _evaluate(agent: PixelSAC, judge: Monitor, episodes: int) -> list[float]:
    judge.reset(seed=EVALUATION_SEED)
    returns, _ = evaluate_policy(agent, judge, n_eval_episodes=episodes, return_episode_rewards=True)
    return [float(value) for value in returns]


def _after_round(out: Path, agent: PixelSAC, returns: list[float], repeat: int, started: float) -> None:
    seconds = round(time.monotonic() - started, 1)
    figures = {k.removeprefix("train/"): round(float(v), 4) for k, v in agent.logger.name_to_value.items()}
    row = {"env_steps": agent.num_timesteps * repeat, "returns": returns, "seconds": seconds, **figures}
    _replace(out / REPLAY, agent.replay_buffer.save)
    _replace(out / POLICY, lambda path: torch.save(agent.policy.state_dict(), path))
    _replace(out / STATE, lambda path: torch.save(agent.state(), path))
    rows = [known for known in read_returns(out) if known["env_steps"] < row["env_steps"]]
    text = "".join(json.dumps(each) + "\n" for each in [*rows, row])
    _replace(out / RETURNS, lambda path: path.write_text(text, "utf-8"))
    print(f"{out}: {row['env_steps']} environment steps, return {np.mean(returns):.0f}, {seconds:.0f} s", flush=True)


def read_returns(out: Path) -> list[dict[str, Any]]:
    """A run's rows: environment steps, the returns of the evaluated episodes, losses."""
    path = out / RETURNS
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []


def _env_steps(out: Path) -> int:
    rows = read_returns(out)
    return rows[-1]["env_steps"] if rows else 0


def _stored_state(out: Path) -> dict[str, Any] | None:
    if (out / STATE).exists():
        return torch.load(out / STATE, weights_only=True)
    if (out / POLICY).exists():
        raise ValueError(f"{out} was finished at {_env_steps(out)} environment steps: choose another folder for more")
    return None


def _same_run(path: Path, wanted: dict[str, Any]) -> None:
    if not path.exists():
        path.write_text(json.dumps(wanted, indent=1), "utf-8")
    stored = json.loads(path.read_text("utf-8"))
    differing = sorted(name for name in wanted if stored.get(name) != wanted[name])
    if differing:
        raise ValueError(f"{path.parent} holds a run with other {', '.join(differing)}: choose another folder")


def _replace(path: Path, write: Callable[[Path], Any]) -> None:
    """A kill leaves the old file or the new one."""
    new = path.with_name(f"{path.name}.new")
    write(new)
    os.replace(new, path)
