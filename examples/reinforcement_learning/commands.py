"""The command line: parse, call, print."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from examples.reinforcement_learning.settings import ARMS, PAPER, SMALL, Settings

from moco import MocoError

EXAMPLES = """\
  train --task ball_in_cup-catch --arm curl --out runs/one --preset small --steps 100000
  grid --tasks ball_in_cup-catch walker-walk --seeds 0 1 2 --out runs/grid --preset small --jobs 2
  grid --tasks ball_in_cup-catch --seeds 0 1 2 --out runs/paper --preset paper --device cuda --minutes 50
  curves runs/grid
  evaluate runs/grid --episodes 50
  video runs/one --out ball.webp
  frames --task ball_in_cup-catch --count 20000 --out frames.npz
  probe frames.npz
  probe frames.npz --weights runs/frames-curl-1      after: moco pretrain frames.npz --recipe curl --image-size 36
A grid or a run that was stopped goes on when the same command is given again.
"""


def main(words: list[str] | None = None) -> int:
    """Returns the exit code: 0, 2 for a mistake in what was given, 3 for a run that wants its command again."""
    arguments = _parser().parse_args(words)
    try:
        return arguments.run(arguments)
    except (ValueError, FileNotFoundError, MocoError) as error:
        print(f"{arguments.command}: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        print(f"{arguments.command}: {error}: install the extra, pip install 'moco-contrast[rl]'", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m examples.reinforcement_learning",
        description="CURL and its controls on control tasks from pixels.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="one run")
    train.add_argument("--task", required=True, help="domain-task of the Control Suite, or gymnasium:ID")
    train.add_argument("--arm", choices=ARMS, default="curl")
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--out", type=Path, required=True)
    _add_run_options(train)
    train.set_defaults(run=_train)
    grid = commands.add_parser("grid", help="tasks x arms x seeds")
    grid.add_argument("--tasks", nargs="+", default=["ball_in_cup-catch", "walker-walk"])
    grid.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    grid.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    grid.add_argument("--out", type=Path, required=True)
    grid.add_argument("--jobs", type=int, default=1, help="runs at a time")
    _add_run_options(grid)
    grid.set_defaults(run=_grid)
    _add_readers(commands)
    return parser


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--preset", choices=("paper", "small"), default="small", help="'small' is for CPUs")
    parser.add_argument("--steps", type=int, default=100_000, help="environment steps")
    parser.add_argument("--evaluate-every", type=int, default=10_000, help="environment steps")
    parser.add_argument("--episodes", type=int, default=5, help="of an evaluation")
    parser.add_argument("--batch-size", type=int, default=None, help="default the preset's; the paper has 512")
    parser.add_argument("--action-repeat", type=int, default=None, help="default the preset's")
    parser.add_argument("--update-every", type=int, default=None, help="agent steps; default the preset's")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=None, help="of PyTorch, in each run")
    parser.add_argument("--minutes", type=float, default=None, help="stop a run after about so many; give it again")


def _add_readers(commands: argparse._SubParsersAction) -> None:
    curves = commands.add_parser("curves", help="figure and table of a grid")
    curves.add_argument("folder", type=Path)
    curves.set_defaults(run=_curves)
    evaluate = commands.add_parser("evaluate", help="the last policy of a run, or of each run of a grid")
    evaluate.add_argument("folder", type=Path)
    evaluate.add_argument("--episodes", type=int, default=50)
    evaluate.set_defaults(run=_evaluate)
    video = commands.add_parser("video", help="an episode of a run's policy")
    video.add_argument("folder", type=Path)
    video.add_argument("--out", type=Path, default=Path("policy.webp"))
    video.set_defaults(run=_video)
    frames = commands.add_parser("frames", help="stacked frames and true states of random actions, for moco pretrain")
    frames.add_argument("--task", required=True, help="domain-task of the Control Suite, or gymnasium:ID")
    frames.add_argument("--count", type=int, default=20_000)
    frames.add_argument("--size", type=int, default=SMALL.size, help="pixels a side; the paper has 100")
    frames.add_argument("--action-repeat", type=int, default=4)
    frames.add_argument("--seed", type=int, default=0)
    frames.add_argument("--out", type=Path, required=True, help="a name that ends with .npz")
    frames.set_defaults(run=_frames)
    probe = commands.add_parser("probe", help="does an encoder that saw no reward know the state?")
    probe.add_argument("frames", type=Path)
    probe.add_argument("--updates", type=int, default=2000, help="of the encoders that are trained here")
    probe.add_argument("--batch-size", type=int, default=SMALL.batch_size, help="of these updates")
    probe.add_argument("--weights", nargs="+", type=Path, default=[], help="runs of moco pretrain --recipe curl")
    probe.add_argument("--seeds", nargs="+", type=int, default=[0])
    probe.set_defaults(run=_probe)


def settings_of(arguments: argparse.Namespace, arm: str) -> Settings:
    """The preset, with what was given instead."""
    preset = PAPER if arguments.preset == "paper" else SMALL
    given = {name: getattr(arguments, name) for name in ("batch_size", "action_repeat", "update_every")}
    return replace(preset, arm=arm, **{name: value for name, value in given.items() if value is not None})


def _train(arguments: argparse.Namespace) -> int:
    import torch
    from examples.reinforcement_learning.runs import train

    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    finished = train(
        arguments.out,
        arguments.task,
        settings_of(arguments, arguments.arm),
        seed=arguments.seed,
        steps=arguments.steps,
        evaluate_every=arguments.evaluate_every,
        episodes=arguments.episodes,
        minutes=arguments.minutes,
        device=arguments.device,
    )
    return 0 if finished else 3


def _grid(arguments: argparse.Namespace) -> int:
    from examples.reinforcement_learning.runs import grid

    settings_of(arguments, "curl")  # a mistake shows before the first run
    names = ("preset", "steps", "evaluate_every", "episodes", "batch_size", "action_repeat")
    given = {name: getattr(arguments, name) for name in (*names, "update_every", "device", "threads", "minutes")}
    options = [w for name, v in given.items() if v is not None for w in (f"--{name.replace('_', '-')}", str(v))]
    finished = grid(arguments.out, arguments.tasks, arguments.arms, arguments.seeds, options, jobs=arguments.jobs)
    return 0 if finished else 3


def _curves(arguments: argparse.Namespace) -> int:
    from examples.reinforcement_learning.curves import draw, table

    print(table(arguments.folder))
    print(f"figure: {draw(arguments.folder, arguments.folder / 'curves.png')}")
    return 0


def _evaluate(arguments: argparse.Namespace) -> int:
    import numpy as np
    from examples.reinforcement_learning.runs import POLICY, evaluate

    folders = sorted(path.parent for path in arguments.folder.rglob(POLICY)) or [arguments.folder]
    for folder in folders:
        returns = evaluate(folder, arguments.episodes)
        error = np.std(returns) / len(returns) ** 0.5
        print(
            f"{folder}: return {np.mean(returns):.0f}, standard error {error:.0f}, {len(returns)} episodes", flush=True
        )
    return 0


def _video(arguments: argparse.Namespace) -> int:
    from examples.reinforcement_learning.video import record

    print(f"video: {arguments.out}, return {record(arguments.folder, arguments.out):.0f}")
    return 0


def _frames(arguments: argparse.Namespace) -> int:
    from examples.reinforcement_learning.frames import collect

    options = {"size": arguments.size, "action_repeat": arguments.action_repeat, "seed": arguments.seed}
    print(collect(arguments.task, arguments.count, arguments.out, **options))
    return 0


def _probe(arguments: argparse.Namespace) -> int:
    from examples.reinforcement_learning.representation import report

    settings = replace(SMALL, batch_size=arguments.batch_size)
    options = {"updates": arguments.updates, "seeds": arguments.seeds, "weights": arguments.weights}
    print(report(arguments.frames, settings=settings, **options))
    return 0
