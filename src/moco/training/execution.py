"""How the encoder is computed here: precision, layout, compiled or not, in lanes or not, chosen by a short measurement.

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
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from moco import hardware
from moco.config import Config
from moco.contrast.batchnorm import has_batchnorm, split_batchnorm
from moco.errors import ConfigError, RunError
from moco.training import speed
from moco.training.lanes import LANES, Lanes, independent_halves, lane_groups
from moco.training.small_maps import SMALLEST_TAPS
from moco.training.speed import Choice

DEFAULT_CACHE = "~/.cache/moco/execution.json"
CLEAR = 1.05  # times faster than the likeliest: less may be noise, and noise would be remembered
WORTH_LANES = 300  # steps; processes take seconds to start
LONG_RUN = 5_000  # steps; compiling takes minutes, and a shorter run does not win them back
PROBE_SAMPLES, PROBE_GROUPS = 8, 2  # of the batch that shows whether its halves are independent


@dataclasses.dataclass(frozen=True)
class Execution:
    """What was chosen and why.

    Attributes:
        config: the configuration with nothing left at "auto".
        reason: for the screen, on one line.
        lanes: the processes, started already, where the configuration has lanes "on"; to be closed by the caller.
    """

    config: Config
    reason: str
    lanes: Lanes | None = None


def choose(config: Config, encoder: nn.Module, *, total_steps: int) -> Execution:
    """Fill in what the configuration leaves at "auto"; the encoder is left as it is.

    Several processes would measure differently, so they take what the hardware multiplies natively, channels-last.
    """
    device = expected_device(config)
    candidates = _candidates(config, device, total_steps)
    if len(candidates) == 1 or config.devices * config.num_nodes > 1:
        reason = "as configured" if "auto" not in (config.precision, config.layout, config.compile) else "by hardware"
        return _choose_lanes(dataclasses.replace(config, **candidates[0]), encoder, device, reason, total_steps)
    rates, origin = _remembered(
        _key(config, encoder, device, candidates), lambda: speed.of_candidates(config, encoder, device, candidates)
    )
    best = _clearly_best(rates)
    told = ", ".join(f"{_name(candidate)} {rate:,.0f}" for candidate, rate in zip(candidates, rates, strict=True))
    chosen = dataclasses.replace(config, **candidates[best])
    return _choose_lanes(chosen, encoder, device, f"{origin}, images/s: {told}", total_steps)


def _choose_lanes(config: Config, encoder: nn.Module, device: torch.device, reason: str, total_steps: int) -> Execution:
    """Decide whether the two halves of a batch are encoded at once; the processes are started where they are.

    Raises:
        ConfigError: lanes are asked for where they cannot be.
    """
    if config.lanes == "off":
        return Execution(config, reason)
    obstacle = lanes_obstacle(config, encoder, device)
    if config.lanes == "on":
        if obstacle:
            raise ConfigError(f"lanes='on': {obstacle}; choose lanes 'off' or 'auto'")
        return Execution(config, reason, Lanes(config, encoder))
    if obstacle or total_steps < WORTH_LANES:
        return Execution(dataclasses.replace(config, lanes="off"), reason)
    manner = {"precision": config.precision, "layout": config.layout, "lanes": "processes"}
    key = _key(config, encoder, device, [manner])
    started: list[Lanes] = []
    try:
        (whole, halves), _ = _remembered(key, lambda: speed.with_and_without_lanes(config, encoder, device, started))
    except RunError:  # a lane cannot build the encoder, or has no memory; another time it may
        return Execution(dataclasses.replace(config, lanes="off"), f"{reason}; no lanes, for their process failed")
    told = f"{reason}; whole batch {whole:,.0f}, in two lanes {halves:,.0f}"
    if halves > whole:  # where they are equal on a quiet machine, lanes lose less on a busy one
        chosen = dataclasses.replace(config, lanes="on")
        return Execution(chosen, told, started.pop() if started else Lanes(chosen, encoder))
    for lanes in started:
        lanes.close()
    return Execution(dataclasses.replace(config, lanes="off"), told)


def lanes_obstacle(config: Config, encoder: nn.Module, device: torch.device) -> str | None:
    """Why the two halves of this run's batches cannot be encoded by themselves; None where they can."""
    samples = config.batch_size_per_rank
    if device.type != "cpu" or config.devices * config.num_nodes > 1:
        return "lanes are for one process on a CPU"
    if os.name != "posix":
        return "lanes need a system whose processes can share memory by descriptor"
    if torch.get_num_threads() < LANES:
        return f"two lanes need two threads, here is {torch.get_num_threads()}"
    if config.compile == "on":
        return "a compiled encoder takes whole batches"
    if samples % LANES:
        return f"a batch of {samples} has no equal halves"
    if config.mechanism == "moco-v3":
        return "the BatchNorm of MoCo v3 takes its statistics from the whole batch"
    if has_batchnorm(encoder):
        if config.batchnorm not in ("auto", "split"):
            return f"BatchNorm with the cure {config.batchnorm!r} takes its statistics from the whole batch"
        if lane_groups(samples, config.split_groups) is None:
            return f"a batch of {samples} does not fall into two lanes of equal BatchNorm groups"
    trial = split_batchnorm(copy.deepcopy(encoder).train(), PROBE_GROUPS)
    with torch.random.fork_rng(devices=[]):
        images = torch.randn(PROBE_SAMPLES, 3, config.image_size, config.image_size)
        if not independent_halves(trial, images, split_groups=PROBE_GROUPS):
            return "the network draws random numbers, or its samples meet outside BatchNorm"
    return None


def _clearly_best(rates: list[float]) -> int:
    return max(range(len(rates)), key=lambda place: rates[place] if place else CLEAR * rates[0])


def _remembered(key: str, measure: Callable[[], list[float]]) -> tuple[list[float], str]:
    """What was measured here before, or now; and which of the two."""
    path = Path(os.environ.get("MOCO_EXECUTION_CACHE", DEFAULT_CACHE)).expanduser()
    known = _read(path)
    if key in known:
        return known[key], "measured before"
    rates = measure()
    _write(path, {**_read(path), key: rates})
    return rates, "measured"


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
    tried = {"off": layouts, "on": layouts[:1]}  # compiling takes a minute each, and channels-last suits a GPU
    return [{"precision": p, "layout": m, "compile": c} for c in compiles for p in precisions for m in tried[c]]


def _name(choice: Choice) -> str:
    layout = choice["layout"].replace("_", "-")
    return f"{choice['precision']} {layout}{' compiled' if choice['compile'] == 'on' else ''}"


def _key(config: Config, encoder: nn.Module, device: torch.device, candidates: list[Choice]) -> str:
    """What the measurement depends on, as a short digest."""
    computer = torch.cuda.get_device_name() if device.type == "cuda" else f"{platform.machine()} {hardware.processor()}"
    network = [(name, tuple(parameter.shape)) for name, parameter in encoder.named_parameters()]
    samples = (config.batch_size_per_rank, config.split_groups)
    versions = (str(torch.__version__), *SMALLEST_TAPS.items())  # ours compute other layers than PyTorch's alone
    about = (computer, versions, torch.get_num_threads(), network, config.image_size, samples, candidates)
    return hashlib.sha256(repr(about).encode()).hexdigest()[:16]


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
