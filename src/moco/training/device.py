"""Device, precision, layout and processes: what the hardware says, and Lightning Fabric with it."""

from __future__ import annotations

import dataclasses
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from moco.config import Config
from moco.contrast import ContrastiveModel, InChunks
from moco.contrast.batchnorm import has_batchnorm
from moco.data.workers import cores
from moco.encoder import Encoder, recomputable_blocks, recomputing
from moco.errors import ConfigError
from moco.training.encoder import strides_over_one_position
from moco.training.processes import cluster_environment, load_fabric, warnings_only

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def expected_device(config: Config) -> torch.device:
    """The device that Fabric will take for this configuration."""
    if config.accelerator in ("auto", "gpu") and torch.cuda.is_available():
        return torch.device("cuda")
    if config.accelerator in ("auto", "mps") and torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def settled(config: Config, encoder: nn.Module | None = None) -> tuple[Config, str]:
    """The configuration with nothing left at "auto" in precision and layout, and why."""
    if config.layout == "auto":  # how convolution libraries compute; other orders are converted at each layer
        config = dataclasses.replace(config, layout="channels_last")
    if config.precision != "auto":
        return config, "as configured"
    device = expected_device(config).type
    native = multiplies_bf16(torch.device(device))
    if device == "cpu" and encoder is not None and _has_grouped_convolutions(encoder):
        # EfficientNet-Lite0 forward and backward: 0.92 s in bf16, 0.68 in fp32 (docs/log.md, 2026-11-28)
        return dataclasses.replace(config, precision="fp32"), "grouped convolutions are slow in bf16 on a CPU"
    if not native:
        return dataclasses.replace(config, precision="fp32"), "bf16 would be emulated here"
    if device == "cpu" and isinstance(encoder, Encoder) and strides_over_one_position(encoder, config):
        # PyTorch 2.14: gradients of such convolutions are no numbers now and then (docs/log.md, 2026-11-28)
        return dataclasses.replace(config, precision="fp32"), "bf16 fails on maps of one position on a CPU"
    part = "GPU" if device == "cuda" else "processor"
    return dataclasses.replace(config, precision="bf16"), f"the {part} multiplies bf16 natively"


def multiplies_bf16(device: torch.device) -> bool:
    """Whether the hardware does so natively; elsewhere bf16 is emulated, and slow."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def _has_grouped_convolutions(module: nn.Module) -> bool:
    return any(isinstance(layer, nn.modules.conv._ConvNd) and layer.groups > 1 for layer in module.modules())


def make_fabric(config: Config) -> Fabric:
    """Fabric for a settled configuration; several devices: DistributedDataParallel.

    Raises:
        ConfigError: the hardware asked for is not there.
    """
    precision = "bf16-mixed" if config.precision == "bf16" else "32-true"
    return fabric_for(config.accelerator, config.devices, num_nodes=config.num_nodes, precision=precision)


def fabric_for(
    accelerator: str, devices: int, *, num_nodes: int = 1, precision: Any = "32-true", wait: timedelta | None = None
) -> Fabric:
    """Fabric; with several devices DistributedDataParallel.

    Args:
        accelerator: auto, cpu, gpu (CUDA) or another of Lightning's.
        devices: on each node.
        num_nodes: nodes.
        precision: of Lightning.
        wait: how long processes wait for one another; None for Lightning's half an hour.

    Raises:
        ConfigError: the hardware asked for is not there.
    """
    load_fabric()
    from lightning_fabric import Fabric
    from lightning_fabric.strategies.ddp import DDPStrategy

    several = devices * num_nodes > 1
    # The queue must not be broadcast at each forward, and f_q's buffers are its rank's own.
    options: dict[str, Any] = {_broadcasts(): False} | ({} if wait is None else {"timeout": wait})
    strategy: Any = DDPStrategy(gradient_as_bucket_view=True, **options) if several else "auto"
    try:
        with warnings_only():
            return Fabric(
                accelerator="cuda" if accelerator == "gpu" else accelerator,
                devices=devices,
                num_nodes=num_nodes,
                strategy=strategy,
                plugins=[cluster_environment(several=several)],
                precision=precision,
            )
    except (RuntimeError, ValueError) as error:
        reason = f"{str(error).splitlines()[0]}; try accelerator 'auto', devices 1"
        raise ConfigError(f"accelerator={accelerator!r} devices={devices}: {reason}") from error
    except Exception as error:  # Lightning's own exception class for a missing device has no public base
        if type(error).__name__ != "MisconfigurationException":
            raise
        raise ConfigError(f"accelerator={accelerator!r} devices={devices}: {error}") from error


def _broadcasts() -> str:
    """What PyTorch calls the option of DistributedDataParallel: 2.14 has a new name for it and warns of the old one."""
    options = inspect.signature(nn.parallel.DistributedDataParallel.__init__).parameters
    return "forward_sync_buffers" if "forward_sync_buffers" in options else "broadcast_buffers"


def place(model: ContrastiveModel, fabric: Fabric, config: Config) -> None:
    """Move the model to its device and layout, and run its encoders under Fabric's precision and strategy.

    Only the query encoder is wrapped for data parallelism: the key encoder has no gradient, and every rank enqueues
    the same gathered keys, so that the queues agree by construction.
    """
    layout = torch.channels_last if config.layout == "channels_last" else torch.contiguous_format
    model.to(fabric.device).to(memory_format=layout)
    query: Any = model.query_side
    if config.chunk_size is not None:
        query = InChunks(query, config.chunk_size, encode=_ready(query, config, model))
    if fabric.world_size > 1:  # around all chunks, so that their gradients are averaged once
        query = fabric.setup_module(query, move_to_device=False)
    if config.chunk_size is None:
        query = _ready(query, config, model)
    model.run_encoders_with(query=query, key=_key_call(model, config))


def _key_call(model: ContrastiveModel, config: Config) -> Callable[[Any], Tensor] | None:
    """How f_k is called; None where keys go through f_q."""
    key: Any = getattr(model, "encoder_k", None)
    if key is None:
        return None
    if config.chunk_size is None:
        return _ready(key, config)
    # MoCo v3 leaves keys in their queries' order, whose company would be theirs then.
    shuffle = config.mechanism == "moco-v3" and has_batchnorm(key)
    return InChunks(key, config.chunk_size, encode=_ready(key, config), shuffle=shuffle)


def _ready(encoder: Any, config: Config, model: ContrastiveModel | None = None) -> Callable[[Any], Tensor]:
    """The encoder under the configuration's compiler and precision; `model`: whose f_q it is, which learns."""
    device = next(encoder.parameters()).device.type
    if config.compile:  # for the one batch shape of the training; evaluation calls the plain encoder
        encoder = torch.compile(encoder, dynamic=False)
    if config.precision == "bf16":
        encoder = torch.autocast(device, torch.bfloat16)(encoder)
    if model is not None and config.activation_checkpointing:  # f_k keeps nothing for a backward pass
        whole: Any = model.encoder_q
        encoder = recomputing(encoder, recomputable_blocks(whole.backbone, config.backbone))
    return encoder  # type: ignore[no-any-return]


def busy_remark(config: Config, device: torch.device) -> str | None:
    """One line where other programs keep the cores of this machine busy and several threads would share an operation.

    Threads meet after each operation: one that has to wait for its core stops the others.
    """
    if device.type != "cpu" or config.threads is not None or config.devices > 1 or not hasattr(os, "getloadavg"):
        return None
    load, available = os.getloadavg()[0], cores()
    if torch.get_num_threads() < 2 or load < available:
        return None
    return (
        f"other programs are busy here (load {load:.1f} on {available} cores), which slows threads that work together: "
        "--threads 1 loses less, see docs/guide.md"
    )


@contextmanager
def convolutions_tried() -> Iterator[None]:
    """Inside, cuDNN tries its ways to convolve on each new shape and keeps the fastest; a run has few shapes.

    They round differently, so that on a GPU runs of the same seed are alike, but not to the bit.
    """
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def peak_memory_bytes(device: torch.device) -> int:
    """Largest memory so far: allocated on a CUDA device, resident for the process otherwise, workers left out."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
