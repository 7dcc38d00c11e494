"""The device, the precision and the ranks that `moco.transfer` trains with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Literal

import torch

from moco.errors import ConfigError
from moco.training.device import fabric_for, multiplies_bf16
from moco.training.launcher import options_of_launcher
from moco.training.processes import launched

# Ranks wait while the first one trains supervised weights or tests: Lightning's half an hour may be too short.
_WAIT = timedelta(hours=6)


def usable_device(name: str) -> str:
    """The device's name, with "auto" resolved; raises ConfigError where there is none."""
    name = ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        said = " ".join(str(error).split())[:100]
        raise ConfigError(
            f"device={name!r} cannot be used ({said}): need auto, cpu, cuda or another of PyTorch's"
        ) from error
    return name


def usable_precision(name: str, device: str) -> Literal["fp32", "bf16"]:
    """fp32 or bf16. "auto" is bf16 on a GPU that multiplies it natively, and fp32 elsewhere.

    On a CPU bf16 is faster where it is native, but it has to be stated: PyTorch's gradients of convolutions on maps of
    one position fail in it now and then (`moco.training.device.settled`), and images here are often small.

    Raises:
        ConfigError: bf16 is wanted where it would be emulated.
    """
    native = multiplies_bf16(torch.device(device))
    if name == "bf16" and not native:
        raise ConfigError(f"precision='bf16' on {device}: it would be emulated there; choose fp32 or auto")
    if name == "auto":
        return "bf16" if native and device.startswith("cuda") else "fp32"
    return "bf16" if name == "bf16" else "fp32"


def check_ranks(devices: int, device: str, batch_sizes: list[int]) -> None:
    """Whether each batch can be split over as many ranks as are wanted or have been started.

    Raises:
        ConfigError: it cannot, or one device is named for all ranks.
    """
    here, nodes = _ranks(devices)
    for batch_size in batch_sizes:
        if batch_size % (here * nodes):
            raise ConfigError(f"batch_size={batch_size} on {here * nodes} ranks: expected a multiple of {here * nodes}")
    if here * nodes > 1 and ":" in device:
        raise ConfigError(f"device={device!r} on {here * nodes} ranks: each has its own; name cpu or cuda")


@contextmanager
def on_ranks(devices: int, device: str) -> Iterator[str]:
    """Within it the processes of all ranks run; gives this one's device.

    moco starts the further processes of `devices`; torchrun's and srun's are there already.

    Raises:
        ConfigError: devices that are not there; RunError: a process is missing or has ended.
    """
    here, nodes = _ranks(devices)
    if here * nodes == 1:
        yield device
        return
    fabric = fabric_for(torch.device(device).type, here, num_nodes=nodes, wait=_WAIT)
    with launched(fabric, num_nodes=nodes):
        yield str(fabric.device)


def _ranks(devices: int) -> tuple[int, int]:
    """On each node, and nodes."""
    started = options_of_launcher({"devices": devices} if devices > 1 else {})
    return started.get("devices", devices), started.get("num_nodes", 1)
