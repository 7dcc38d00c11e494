"""What each mechanism needs around its steps: the model, the batches, and what a reader should be told."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from moco.config import Config
from moco.config_checks import MECHANISM_FIELDS, VARIANTS
from moco.contrast import (
    ContrastiveModel,
    EndToEnd,
    MemoryBank,
    MoCo,
    MoCoV3,
    MoCoVariant,
    contrast_step,
    end_to_end_step,
    memory_bank_step,
    moco_step,
    moco_v3_step,
    symmetric_moco_step,
    variant_step,
)
from moco.contrast.batchnorm import has_batchnorm
from moco.data.order import MODEL, keyed_seed
from moco.encoder import Encoder, v3_predictor
from moco.errors import ConfigError, RunError
from moco.sizes import height_width, size_text, small_size
from moco.training import checkpoint
from moco.training.encoder import build_checked_encoder
from moco.training.memory import memory_bytes
from moco.training.schedule import key_momentum_at, run_length

# What a step of each mechanism is, plain and symmetric.
STEPS: dict[tuple[str, bool], Callable[..., tuple[Tensor, Tensor]]] = {
    ("moco", False): moco_step,
    ("moco", True): symmetric_moco_step,
    ("memory-bank", False): memory_bank_step,
    ("end-to-end", False): end_to_end_step,
    ("moco-v3", True): moco_v3_step,
    ("curl", False): functools.partial(contrast_step, negatives="batch"),
}


def check_images(config: Config, images: int) -> None:
    """Whether so many images can serve the mechanism and the length of the run.

    Raises:
        ConfigError: a memory bank smaller than the dictionary drawn from it, or a warm-up as long as the run.
    """
    length = run_length(config, images // config.batch_size)
    for name in ("warmup_steps", "head_warmup_steps"):
        if (warmup := getattr(config, name)) >= length and warmup:
            raise ConfigError(
                f"{name}={warmup} with {length} steps in {config.epochs} epochs of {images} images: state fewer, or "
                "more epochs"
            )
    if config.mechanism == "memory-bank" and (config.dictionary_size or 0) > images:
        raise ConfigError(
            f"dictionary_size={config.dictionary_size} with {images} images: the memory bank holds one embedding of "
            f"each, so choose --dictionary-size {images} or less"
        )


def check_memory(config: Config, device: torch.device, images: int) -> None:
    """Refuse what cannot fit: keys, views of a batch and head alone need more than the device has.

    Raises:
        ConfigError: the option that takes most is named.
    """
    four, pixels = 4, 2 * math.prod(height_width(config.image_size))  # bytes of a float32; of both views
    if config.small_views:
        pixels += config.small_views * math.prod(height_width(small_size(config.small_view_size, config.image_size)))
    also = f" with small_views={config.small_views}" if config.small_views else ""
    keys = images if config.mechanism == "memory-bank" else config.dictionary_size or 0
    needs = {
        f"dictionary_size={config.dictionary_size}": four * config.embedding_dim * keys,
        f"batch_size={config.batch_size} at image_size={size_text(config.image_size)}{also}": (
            four * config.batch_size_per_rank * (config.channels or 3) * pixels
        ),
        f"hidden_dim={config.hidden_dim}, embedding_dim={config.embedding_dim}": (
            four * 4 * (config.hidden_dim or 0) * config.embedding_dim  # f_q, f_k, gradient, momentum
        ),
    }
    most, there = max(needs, key=lambda name: needs[name]), memory_bytes(device)
    if sum(needs.values()) > there:
        gib = needs[most] / 2**30
        raise ConfigError(f"{most}: {gib:,.0f} GiB of memory, here are {there / 2**30:,.0f}: choose less")


def build_model(encoder: Encoder, config: Config, *, images: int) -> ContrastiveModel:
    """The mechanism's model around the query encoder, for so many images, drawn from the seed.

    To be called once the processes are there.
    """
    torch.manual_seed(keyed_seed(config.seed, MODEL))
    names = ("embedding_dim", "temperature", "batchnorm", *MECHANISM_FIELDS[config.mechanism])
    options: dict[str, Any] = {name: getattr(config, name) for name in names}
    if config.decoupled:
        options["decoupled"] = True
    if config.mechanism == "moco-v3":
        predictor = v3_predictor(config.embedding_dim, head=config.head, hidden_dim=config.hidden_dim)
        return MoCoV3(encoder, predictor, **options)
    several = config.devices * config.num_nodes > 1
    if has_batchnorm(encoder) and not (several and config.batchnorm == "auto"):
        options["split_groups"] = config.split_groups
    if config.mechanism == "memory-bank":
        return MemoryBank(encoder, num_samples=images, **options)
    if config.mechanism == "end-to-end":
        return EndToEnd(encoder, **options)
    if config.mechanism == "curl":  # negatives are the batch's: of the queue nothing is asked
        return MoCo(encoder, similarity="bilinear", dictionary_size=1, **options)
    options["dictionary_dtype"] = config.dictionary_dtype
    return MoCoVariant(encoder, patches=config.patches, **options) if is_variant(config) else MoCo(encoder, **options)


def is_variant(config: Config) -> bool:
    """Whether queries, positives or loss are others than Algorithm 1's."""
    return config.mechanism == "moco" and (config.decoupled or any(getattr(config, name) for name in VARIANTS))


def step_of(config: Config, small: tuple[Tensor, ...]) -> Callable[..., tuple[Tensor, Tensor]]:
    """What a step is; `small`: views beside the two."""
    if not is_variant(config):
        return STEPS[config.mechanism, config.symmetric]
    return functools.partial(variant_step, small=small[0] if small else None, symmetric=config.symmetric)


def set_step_(model: ContrastiveModel, config: Config, step: int, total_steps: int) -> None:
    """What changes in the model over a run, for a step counted from 0."""
    if config.key_momentum_schedule == "cosine" or config.key_momentum_every > 1:
        assert isinstance(model, MoCo | MoCoV3)
        assert config.key_momentum is not None
        momentum = config.key_momentum
        if config.key_momentum_schedule == "cosine":
            momentum = key_momentum_at(step, total_steps=total_steps, start=momentum)
        model.key_momentum = 1.0 if step % config.key_momentum_every else momentum  # 1: f_k stays, to the bit
    if isinstance(model, MoCoVariant):
        model.nearest_share = config.nearest_positives if _is_nearest_begun(config, step, total_steps) else 0.0


def kind_of_step(config: Config, step: int, total_steps: int) -> tuple[Any, ...]:
    """What the computation of a step, counted from 0, depends on beside the batch: steps of one kind cost the same."""
    return config.sizes.at(step, total_steps), _is_nearest_begun(config, step, total_steps)


def _is_nearest_begun(config: Config, step: int, total_steps: int) -> bool:
    return bool(config.nearest_positives) and step >= config.nearest_positives_from * total_steps


def restored_model(config: Config, file: Path, module: nn.Module | None = None) -> ContrastiveModel:
    """The model of a checkpoint, on the CPU; `module`: the user's own backbone, where it was one.

    Raises:
        RunError: the checkpoint cannot be read or does not fit the configuration.
    """
    state = checkpoint.load(file)["model"]
    bank = state.get("bank.embeddings_MC")
    with torch.random.fork_rng(devices=[]):
        encoder = build_checked_encoder(config, module)
        model = build_model(encoder, config, images=1 if bank is None else len(bank))
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise RunError(f"{file} does not fit its configuration: {str(error).splitlines()[0]}") from error
    return model.eval()


def bank_rows(indices: np.ndarray, config: Config) -> Tensor | None:
    """By source index, the row of each of these images in the memory bank, -1 for others; None without a bank."""
    if config.mechanism != "memory-bank":
        return None
    rows = torch.full((int(indices.max()) + 1,), -1, dtype=torch.int64)
    rows[indices] = torch.arange(len(indices))
    return rows


def remarks(config: Config, images: int) -> list[str]:
    """Lines for the start of a run: the mechanism's dictionary, its cost and how its loss begins."""
    size = config.dictionary_size or config.batch_size
    if config.mechanism == "end-to-end":
        return [
            f"mechanism end-to-end: {size - 1:,} negatives a query, the other keys of the batch; two encoder passes a "
            "step, both with gradient"
        ]
    if config.mechanism == "curl":
        return [
            f"mechanism curl: {size - 1:,} negatives a query, the other keys of the batch; similarity q W k, W learned",
            f"the loss of equal logits is log(batch) = {math.log(size):.3g}",
        ]
    if config.mechanism == "moco-v3":
        samples = "samples" if config.chunk_size is None else "samples of a chunk"
        over = f"the {samples} of all devices" if config.batchnorm == "auto" else f"each device's own {samples}"
        return [
            f"mechanism moco-v3: {size - 1:,} negatives a query, the other keys of the batch; four encoder passes a "
            f"step, two with gradient; BatchNorm over {over}",
            f"the loss begins near {4 * config.temperature * math.log(size):.3g}, 4 temperature log(batch)",
        ]
    if config.mechanism == "memory-bank":
        return [
            f"mechanism memory-bank: {size:,} of {images:,} stored embeddings drawn at each step, "
            f"{images * config.embedding_dim * 4 / 2**20:,.0f} MiB in all; one encoder pass a step",
            "the loss rises for the first epochs, while the stored embeddings are near their random start: that is "
            "expected",
        ]
    crowded = (
        f"the queue ({size:,} keys) is larger than the data set, so that an image meets its own older keys as "
        f"negatives; consider --dictionary-size {max(1, images // 4)}"
    )
    rising = "the loss rises at first, while the queue fills with real keys: that is expected"
    return [crowded, rising] if size > images else [rising]
