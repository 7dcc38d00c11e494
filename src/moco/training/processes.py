"""The processes of a run on several devices: how they find one another, and what is said where one is missing."""

from __future__ import annotations

import datetime
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import torch

from moco.data.workers import end_with_parent
from moco.errors import BrokenOffError, RunError
from moco.training import stop
from moco.training.launcher import launcher, nodes_join

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment

FIRST_PROCESS = "MOCO_FIRST_PROCESS"  # environment of processes that were started for further devices
_LONGEST_END = 20.0  # seconds that the processes for further devices have to end after the run
_EXIT_KNOWN = 1.0  # seconds after a lost connection until the process at its other end is known to have ended

# Fabric speaks through the trainer's too where somebody has loaded it.
LIGHTNING_LOGS = (
    "lightning_fabric.utilities.distributed",
    *(f"{name}.utilities.rank_zero" for name in ("lightning_fabric", "pytorch_lightning", "lightning.pytorch")),
)


def cluster_environment(*, several: bool) -> ClusterEnvironment:
    """How Fabric learns of the other processes. Left to itself it takes any job of SLURM for srun's."""
    load_fabric()
    from lightning_fabric.plugins.environments.lightning import LightningEnvironment
    from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
    from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment

    started_by = launcher()
    if started_by is None or not several:
        return LightningEnvironment()
    os.environ.setdefault("SLURM_NTASKS_PER_NODE", str(started_by.devices))  # Fabric refuses to count them itself
    return TorchElasticEnvironment() if started_by.name == "torchrun" else SLURMEnvironment(auto_requeue=False)


@contextmanager
def launched(fabric: Fabric, *, num_nodes: int = 1) -> Iterator[None]:
    """Within it the processes of all devices run. One that was started here for a further device ends with the first.

    Otherwise a first process that is killed leaves the others waiting for it. Those of torchrun and SLURM have somebody
    who ends them.

    Raises:
        RunError: this is such a process, and the first one has ended already; a node is missing; or one of the
            processes has ended while the others need it.
    """
    first = os.environ.pop(FIRST_PROCESS, None)
    if first is not None and not end_with_parent(int(first), signal.SIGKILL):
        raise RunError("the process that started this one has ended")
    store = _all_nodes(num_nodes) if first is None and num_nodes > 1 and launcher() is None else None
    try:
        os.environ[FIRST_PROCESS] = str(os.getpid())
        try:
            with warnings_only():
                fabric.launch()
        finally:
            del os.environ[FIRST_PROCESS]
        del store  # PyTorch has its own by now
        yield
        if stop.may_end_process:  # those of a Python program go on with it
            _wait_for_others(fabric)
    except RuntimeError as error:
        if fabric.world_size == 1 or not _is_lost_connection(error):
            raise
        which = _ended_here(fabric)
        raise BrokenOffError(f"another process of the run has ended{which}: continue with --resume") from None
    finally:
        if first is not None:
            end_with_parent(None, 0)


def _all_nodes(num_nodes: int) -> Any:
    """Wait until the first process of each node is there; returns what they have met in.

    PyTorch waits for half an hour, and then names none.

    Raises:
        RunError: a node is missing.
    """
    address, port, own = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), int(os.environ["NODE_RANK"])
    seconds = nodes_join()
    limit, wait = time.monotonic() + seconds, datetime.timedelta(seconds=seconds)
    cure = f"start the same command on each, with MASTER_ADDR={address}, MASTER_PORT={port} and its NODE_RANK"
    try:
        from torch.distributed import TCPStore  # type: ignore[attr-defined]

        store = TCPStore(address, port, is_master=own == 0, timeout=wait, wait_for_workers=False, multi_tenant=True)
        store.set(f"moco/node/{own}", "here")
    except RuntimeError as error:
        place = f"{address}:{port}"
        raise RunError(f"node {own} does not reach node 0 at {place} within {seconds:.0f} s: {cure}") from error
    for node in range(num_nodes):
        left = max(0.1, limit - time.monotonic())
        try:
            store.wait([f"moco/node/{node}"], datetime.timedelta(seconds=left))
        except RuntimeError as error:
            raise RunError(
                f"node {node} of {num_nodes} has not come within {seconds:.0f} s: {cure} (0 to {num_nodes - 1})"
            ) from error
    return store


def _is_lost_connection(error: RuntimeError) -> bool:
    """Whether gloo or NCCL says that another process is gone."""
    return isinstance(error, torch.distributed.DistError) or "third_party/gloo" in str(error)


def _started_here(fabric: Fabric) -> list[Any]:
    return list(getattr(fabric.strategy.launcher, "procs", []))


def _wait_for_others(fabric: Fabric) -> None:
    """So that with the command all its processes have ended: their interpreters take seconds where cores are busy."""
    limit = time.monotonic() + _LONGEST_END
    for process in _started_here(fabric):
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, limit - time.monotonic()))


def _ended_here(fabric: Fabric) -> str:
    """Which of the processes that were started here have ended, and how."""
    processes = _started_here(fabric)
    limit = time.monotonic() + _EXIT_KNOWN
    while processes and time.monotonic() < limit and all(process.poll() in (None, 0) for process in processes):
        time.sleep(0.02)
    codes = {rank: process.poll() for rank, process in enumerate(processes, 1)}
    ended = [f"rank {rank} {_in_words(code)}" for rank, code in codes.items() if code]
    return f" ({', '.join(ended)})" if ended else ""


def _in_words(code: int) -> str:
    return f"with exit code {code}" if code > 0 else f"by signal {signal.Signals(-code).name}"


def load_fabric() -> None:
    """Fabric asks torchmetrics for its version by importing it, and with it scipy, matplotlib and transformers: 2.6 s.

    None in `sys.modules` means "not installed"; Fabric then lacks nothing that is used here.
    """
    if "torchmetrics" not in sys.modules:
        sys.modules["torchmetrics"] = None  # type: ignore[assignment]
        import lightning_fabric  # noqa: F401

        del sys.modules["torchmetrics"]


@contextmanager
def warnings_only() -> Iterator[None]:
    """What Lightning says of precision and processes we say ourselves, or the user wants silence."""
    loggers = [logging.getLogger(name) for name in LIGHTNING_LOGS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
