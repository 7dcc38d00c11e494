"""The device and the precision that `moco.transfer` trains with."""

from __future__ import annotations

import torch

from moco.errors import ConfigError
from moco.training.device import multiplies_bf16


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


def usable_precision(name: str, device: str) -> str:
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
    return name
