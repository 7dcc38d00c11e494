"""How the encoder is computed here: precision, memory layout, compiled or not, chosen by a short measurement.

Which is fastest depends on the processor, the version of PyTorch and the network, and no rule foresees it. The result
is kept by hardware, versions and network, so that the same machine makes the same choice again, and the run folder
stores it, so that a resumed run computes as it began.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import hashlib
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from moco.config import Config

DEFAULT_CACHE = "~/.cache/moco/execution.json"
CPU_SAMPLES = 32  # enough for a ratio, and a matter of a second
ROUNDS = 5
CLEAR = 1.05  # times faster than the likeliest: less may be noise, and noise would be remembered
LONG_RUN = 5_000  # steps; compiling takes minutes, and a shorter run does not win them back
Choice = dict[str, Any]  # precision, layout and compile, as in the configuration


@dataclasses.dataclass(frozen=True)
class Execution:
    """What was chosen and why.

    Attributes:
        config: the configuration with nothing left at "auto".
        reason: for the screen, on one line.
    """

    config: Config
    reason: str


def choose(config: Config, encoder: nn.Module, *, total_steps: int) -> Execution:
    """Fill in what the configuration leaves at "auto"; the encoder is left as it is.

    Several processes would measure differently, so they take what the hardware multiplies natively, channels-last.
    """
    device = expected_device(config)
    candidates = _candidates(config, device, total_steps)
    if len(candidates) == 1 or config.devices * config.num_nodes > 1:
        reason = "as configured" if "auto" not in (config.precision, config.layout, config.compile) else "by hardware"
        return Execution(dataclasses.replace(config, **candidates[0]), reason)
    path = Path(os.environ.get("MOCO_EXECUTION_CACHE", DEFAULT_CACHE)).expanduser()
    key = _key(config, encoder, device, candidates)
    known = _read(path)
    rates = known.get(key)
    origin = "measured before"
    if rates is None:
        rates = _measure(config, encoder, device, candidates)
        _write(path, {**known, key: rates})
        origin = "measured"
    best = max(range(len(candidates)), key=lambda place: rates[place] if place else CLEAR * rates[0])
    told = ", ".join(f"{_name(candidate)} {rate:,.0f}" for candidate, rate in zip(candidates, rates, strict=True))
    return Execution(dataclasses.replace(config, **candidates[best]), f"{origin}, images/s: {told}")


def expected_device(config: Config) -> torch.device:
    """The device that Fabric will take for this configuration."""
    if config.accelerator in ("auto", "gpu") and torch.cuda.is_available():
        return torch.device("cuda")
    if config.accelerator in ("auto", "mps") and torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def native_bf16(device: torch.device) -> bool:
    """Whether the hardware multiplies bfloat16 itself; elsewhere it is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability() >= (8, 0)
    return device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def _candidates(config: Config, device: torch.device, total_steps: int) -> list[Choice]:
    """Every combination worth a measurement, the likeliest first."""
    precisions = [config.precision] if config.precision != "auto" else ["bf16", "fp32"]
    if config.precision == "auto" and not native_bf16(device):
        precisions = ["fp32"]
    elif config.precision == "auto" and device.type == "cuda":
        precisions = ["bf16"]  # never slower where it is native
    layouts = [config.layout] if config.layout != "auto" else ["channels_last", "contiguous"]
    worth_compiling = device.type == "cuda" and total_steps >= LONG_RUN
    compiles = [config.compile] if config.compile != "auto" else ["off", "on"] if worth_compiling else ["off"]
    return [{"precision": p, "layout": m, "compile": c} for c in compiles for p in precisions for m in layouts]


def _measure(config: Config, encoder: nn.Module, device: torch.device, candidates: list[Choice]) -> list[float]:
    """Images per second of a query's forward and backward pass, by turns; the best round is the least disturbed."""
    count = config.batch_size_per_rank if device.type == "cuda" else min(CPU_SAMPLES, config.batch_size_per_rank)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        trials = [_trial(encoder, candidate, config.image_size, count, device) for candidate in candidates]
        for trial in trials:
            trial()
        seconds = [[trial() for trial in trials] for _ in range(ROUNDS)]
    return [count / min(times) for times in zip(*seconds, strict=True)]


def _trial(encoder: nn.Module, choice: Choice, size: int, count: int, device: torch.device) -> Callable[[], float]:
    """A function that makes one step and tells how many seconds it took."""
    layout = memory_format(choice["layout"])
    own = copy.deepcopy(encoder).train().to(device).to(memory_format=layout)
    images = torch.randn(count, 3, size, size, device=device).contiguous(memory_format=layout)
    forward: Callable[[Tensor], Tensor] = torch.compile(own) if choice["compile"] == "on" else own

    def step() -> float:
        _wait(device)
        start = time.perf_counter()
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=choice["precision"] == "bf16"):
            embeddings = forward(images)
        torch.autograd.backward(embeddings.float().square().mean())
        own.zero_grad()
        _wait(device)
        return time.perf_counter() - start

    return step


def memory_format(layout: str) -> torch.memory_format:
    """PyTorch's constant for the configuration's word."""
    return torch.channels_last if layout == "channels_last" else torch.contiguous_format


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _name(choice: Choice) -> str:
    layout = choice["layout"].replace("_", "-")
    return f"{choice['precision']} {layout}{' compiled' if choice['compile'] == 'on' else ''}"


def _key(config: Config, encoder: nn.Module, device: torch.device, candidates: list[Choice]) -> str:
    """What the measurement depends on, as a short digest."""
    hardware = torch.cuda.get_device_name() if device.type == "cuda" else f"{platform.machine()} {_processor()}"
    network = [(name, tuple(parameter.shape)) for name, parameter in encoder.named_parameters()]
    samples = config.batch_size_per_rank
    about = (hardware, str(torch.__version__), torch.get_num_threads(), network, config.image_size, samples, candidates)
    return hashlib.sha256(repr(about).encode()).hexdigest()[:16]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def _read(path: Path) -> dict[str, list[float]]:
    """What was measured before; a file that is damaged or absent counts as empty."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _write(path: Path, content: dict[str, list[float]]) -> None:
    """Keep the measurements; where that is not possible, the next run measures again."""
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(content, indent=1), encoding="utf-8")
        os.replace(partial, path)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink()
