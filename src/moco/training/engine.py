"""Device, precision and launch, from Lightning Fabric."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from moco.config import Config
from moco.contrast import ContrastiveModel
from moco.errors import ConfigError
from moco.training.encoder import memory_format
from moco.training.fabric_alone import load_fabric
from moco.training.lanes import KEY, QUERY, LanedEncoder, Lanes

if TYPE_CHECKING:
    from lightning.fabric import Fabric

# Fabric speaks through the second one where somebody has loaded Lightning's trainer.
LIGHTNING_LOGS = ("lightning.fabric.utilities.rank_zero", "lightning.pytorch.utilities.rank_zero")


def make_fabric(config: Config) -> Fabric:
    """Fabric for a configuration that `execution.choose` has filled in; several devices: DistributedDataParallel.

    Raises:
        ConfigError: the hardware asked for is not there.
    """
    load_fabric()
    from lightning.fabric import Fabric
    from lightning.fabric.strategies.ddp import DDPStrategy

    several = config.devices * config.num_nodes > 1
    # The queue must not be broadcast at each forward, and f_q's buffers are its rank's own.
    strategy: Any = DDPStrategy(broadcast_buffers=False, gradient_as_bucket_view=True) if several else "auto"
    try:
        with _warnings_only():
            return Fabric(
                accelerator="cuda" if config.accelerator == "gpu" else config.accelerator,
                devices=config.devices,
                num_nodes=config.num_nodes,
                strategy=strategy,
                precision="bf16-mixed" if config.precision == "bf16" else "32-true",
            )
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"accelerator={config.accelerator!r} devices={config.devices}: {reason}; try accelerator 'auto', devices 1"
        ) from error
    except Exception as error:  # Lightning's own exception class for a missing device has no public base
        if type(error).__name__ != "MisconfigurationException":
            raise
        raise ConfigError(f"accelerator={config.accelerator!r} devices={config.devices}: {error}") from error


@contextmanager
def _warnings_only() -> Iterator[None]:
    """What Lightning says of the precision we say ourselves, with its reason, or the user wants silence."""
    loggers = [logging.getLogger(name) for name in LIGHTNING_LOGS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def place(model: ContrastiveModel, fabric: Fabric, config: Config, lanes: Lanes | None = None) -> None:
    """Move the model to its device and layout, and run its encoders under Fabric's precision and strategy.

    `lanes`: the processes where the configuration has lanes "on"; None starts them, and they end with the model.

    Only the query encoder is wrapped for data parallelism: the key encoder has no gradient, and every rank enqueues
    the same gathered keys, so that the queues agree by construction.
    """
    model.to(fabric.device).to(memory_format=memory_format(config.layout))
    query: Any = model.query_side
    if fabric.world_size > 1:
        query = fabric.setup_module(query, move_to_device=False)
    key: Any = getattr(model, "encoder_k", None)  # where there is none, keys go through f_q
    if config.compile == "on":
        query, key = _translated(query), None if key is None else _translated(key)

    def encode(encoder: Any, batch: Any) -> torch.Tensor:
        with fabric.autocast():
            embeddings: torch.Tensor = encoder(batch)
            return embeddings

    if config.lanes == "on":
        lanes = lanes or Lanes(config, query)
        query = LanedEncoder(query, encode, lanes, QUERY)
        key = None if key is None else LanedEncoder(key, encode, lanes, KEY)
    else:
        query = functools.partial(encode, query)
        key = None if key is None else functools.partial(encode, key)
    model.run_encoders_with(query=query, key=key)


def _translated(encoder: Any) -> Any:
    """Compiled for the one batch shape of the training; evaluation calls the plain encoder, so nothing recompiles."""
    return torch.compile(encoder, dynamic=False)


def peak_memory_bytes(device: torch.device, *, lanes: int = 0) -> int:
    """Largest memory so far: allocated on a CUDA device, resident for the process otherwise.

    `lanes`: how many processes besides, which have ended; each is taken to have been as large as the largest.
    """
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        import resource
        import sys
    except ImportError:  # Windows
        return 0
    own, other = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return int((own + lanes * other) * (1 if sys.platform == "darwin" else 1024))
