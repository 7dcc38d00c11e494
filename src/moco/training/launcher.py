"""Who starts the processes of a run: moco itself, torchrun, or SLURM's srun. The environment says it."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from moco.errors import ConfigError

_NODES_JOIN, _LONGEST = "MOCO_NODES_JOIN", 1_000_000


@dataclasses.dataclass(frozen=True)
class Launcher:
    """One that has started a process for each device.

    Attributes:
        name: torchrun or srun.
        devices: processes on each node.
        num_nodes: nodes.
        rank: of this process, over all nodes.
    """

    name: str
    devices: int
    num_nodes: int
    rank: int


def launcher() -> Launcher | None:
    """The one that has started this process beside others; None where moco starts processes for further devices.

    A batch script of SLURM that calls moco without srun is none, nor is srun with one task: for further devices moco
    starts processes itself there.

    Raises:
        ConfigError: srun's tasks are not spread evenly over its nodes.
    """
    found = None
    if {"RANK", "LOCAL_RANK", "GROUP_RANK", "LOCAL_WORLD_SIZE", "WORLD_SIZE"} <= os.environ.keys():
        every, here = _number("WORLD_SIZE"), _number("LOCAL_WORLD_SIZE")
        found = Launcher("torchrun", here, every // here, _number("RANK"))
    elif {"SLURM_PROCID", "SLURM_STEP_NUM_TASKS"} <= os.environ.keys():  # the latter is srun's alone
        every, nodes = _number("SLURM_STEP_NUM_TASKS"), _number("SLURM_STEP_NUM_NODES")
        if every % nodes:
            raise ConfigError(f"srun has started {every} tasks on {nodes} nodes: give --ntasks-per-node")
        found = Launcher("srun", every // nodes, nodes, _number("SLURM_PROCID")) if every > 1 else None
    return found


def is_first_process() -> bool:
    """Whether this is the process that the user started, or the first of those that torchrun or srun did."""
    started_by = launcher()
    if started_by is not None:
        return started_by.rank == 0
    return os.environ.get("LOCAL_RANK", "0") == "0" and os.environ.get("NODE_RANK", "0") == "0"


def options_of_launcher(given: dict[str, Any]) -> dict[str, int]:
    """Devices and nodes as they have been started; nothing where moco starts them.

    Raises:
        ConfigError: `given` states others.
    """
    started_by = launcher()
    if started_by is None:
        return {}
    options = {"devices": started_by.devices, "num_nodes": started_by.num_nodes}
    for name, value in options.items():
        if given.get(name, value) != value:
            where = "on each node" if name == "devices" else "nodes"
            raise ConfigError(f"{name}={given[name]}: {started_by.name} has started {value} {where}, leave {name} out")
    return options


def nodes_join() -> float:
    """Seconds in which all nodes have to be there, which the environment may state.

    Raises:
        ConfigError: it states something else.
    """
    stated = os.environ.get(_NODES_JOIN) or "300"
    try:
        if 0 < (seconds := float(stated)) <= _LONGEST:
            return seconds
    except ValueError:
        pass
    raise ConfigError(f"{_NODES_JOIN}={stated!r} in the environment: expected seconds above 0, at most {_LONGEST:,}")


def check_nodes(num_nodes: int) -> None:
    """Whether each of several nodes on which the user starts moco by hand knows the first one and its own number.

    Raises:
        ConfigError: it does not, or the environment states no time to wait for them.
    """
    wanted = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK")
    missing = [name for name in wanted if not os.environ.get(name)]
    if num_nodes > 1 and launcher() is None and missing:
        raise ConfigError(
            f"num_nodes={num_nodes} without {', '.join(missing)} in the environment: set MASTER_ADDR and MASTER_PORT "
            "to those of the first node and NODE_RANK to 0, 1, ... on each, or start the nodes with torchrun or srun"
        )
    if num_nodes > 1 and launcher() is None:
        nodes_join(), _number("MASTER_PORT"), _number("NODE_RANK")


def _number(name: str) -> int:
    stated = os.environ.get(name) or "1"
    if not stated.isdecimal():
        raise ConfigError(f"{name}={stated!r} in the environment: expected a whole number")
    return int(stated)
