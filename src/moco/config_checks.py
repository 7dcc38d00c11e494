"""Which values of a configuration go together."""

from __future__ import annotations

from typing import Any

from moco.errors import ConfigError

PLAIN_HEADS, V3_HEADS = ("linear", "mlp"), ("v3-resnet", "v3-vit")
# Which of the fields in LACKING each mechanism has.
MECHANISM_FIELDS: dict[str, tuple[str, ...]] = {
    "moco": ("dictionary_size", "key_momentum"),
    "memory-bank": ("dictionary_size", "bank_momentum"),
    "end-to-end": (),
    "moco-v3": ("key_momentum",),
}
LACKING = {
    "dictionary_size": "the batch as its dictionary",
    "key_momentum": "no key encoder that follows",
    "bank_momentum": "no memory bank",
}


def check_together(config: Any) -> None:
    """For `Config`: raise ConfigError where values contradict one another; it names them and what to do."""
    _check_mechanism(config)
    _check_combinations(config)


def _check_mechanism(config: Any) -> None:
    for field, why in LACKING.items():
        value, has = getattr(config, field), field in MECHANISM_FIELDS[config.mechanism]
        if value is None and has:
            raise ConfigError(f"{field}=None with mechanism {config.mechanism!r}: give a value")
        if value is not None and not has:
            raise ConfigError(f"{field}={value} with mechanism {config.mechanism!r}, which has {why}: leave it out")
    if config.dictionary_dtype != "fp32" and config.mechanism != "moco":
        why = (
            "which adds a small part of each new embedding to a stored one, less than fewer bits can show"
            if config.mechanism == "memory-bank"
            else "which stores no keys"
        )
        raise ConfigError(
            f"dictionary_dtype={config.dictionary_dtype!r} with mechanism {config.mechanism!r}, {why}: leave it out"
        )
    if config.mechanism in ("memory-bank", "end-to-end"):
        if config.symmetric:
            raise ConfigError(f"symmetric with mechanism {config.mechanism!r}: it belongs to 'moco', leave it out")
        if config.batchnorm in ("average", *(["shuffle"] if config.mechanism == "memory-bank" else [])):
            raise ConfigError(
                f"batchnorm={config.batchnorm!r} with mechanism {config.mechanism!r}, which has no key encoder of its "
                "own: choose 'auto'"
            )
    if config.mechanism in ("end-to-end", "moco-v3") and config.batch_size < 2:
        raise ConfigError(
            f"batch_size=1 with {config.mechanism}: negatives are the batch's other keys, need at least 2"
        )
    if (config.head in V3_HEADS) != (config.mechanism == "moco-v3"):
        fitting = ", ".join(V3_HEADS if config.mechanism == "moco-v3" else PLAIN_HEADS)
        raise ConfigError(f"head={config.head!r} with mechanism {config.mechanism!r}: choose one of {fitting}")
    if config.key_momentum is None and config.key_momentum_schedule != "constant":
        raise ConfigError(f"key_momentum_schedule with mechanism {config.mechanism!r}: it has no key encoder to slow")
    if config.mechanism == "moco-v3":
        _check_v3(config)


def _check_v3(config: Any) -> None:
    if not config.symmetric:
        raise ConfigError("symmetric=False with mechanism 'moco-v3': its loss has both directions, leave it out")
    if config.batchnorm not in ("auto", "none") or config.split_groups is not None:
        raise ConfigError(
            f"batchnorm={config.batchnorm!r}, split_groups={config.split_groups} with mechanism 'moco-v3', which "
            "normalises over all devices: choose 'auto', or 'none' for each device by itconfig, without groups"
        )


def _check_combinations(config: Any) -> None:
    if (config.epochs is None) == (config.steps is None):
        raise ConfigError(f"epochs={config.epochs} and steps={config.steps}: give exactly one of the two")
    if config.batch_size % (config.devices * config.num_nodes):
        raise ConfigError(
            f"batch_size={config.batch_size} on {config.devices * config.num_nodes} devices: "
            "choose a multiple, so that every device gets the same share"
        )
    if config.hidden_dim is not None and config.head == "linear":
        raise ConfigError(f"hidden_dim={config.hidden_dim} with head='linear', which has no layer in between")
    if config.warmup_epochs and (config.warmup_steps or config.warmup_epochs >= (config.epochs or 0)):
        raise ConfigError(
            f"warmup_epochs={config.warmup_epochs} with warmup_steps={config.warmup_steps}, epochs={config.epochs}: "
            "give fewer than the epochs of the run, or warmup_steps alone"
        )
    if config.steps is not None and config.warmup_steps >= config.steps:
        raise ConfigError(f"warmup_steps={config.warmup_steps} with steps={config.steps}: warm up for fewer steps")
    if config.frozen_layers and config.init is None:
        share = f"frozen_layers={config.frozen_layers:g}"
        raise ConfigError(f"{share} without init: random layers have to learn, leave it out")
    if config.frozen_layers and config.batchnorm not in ("auto", "frozen", "none"):
        raise ConfigError(
            f"frozen_layers={config.frozen_layers:g} with batchnorm={config.batchnorm!r}, which changes their "
            "statistics: choose batchnorm 'frozen', or frozen_layers 0"
        )
    if config.compile and config.activation_checkpointing:
        raise ConfigError(
            "compile with activation_checkpointing: a compiler decides itself what is computed again, drop one of them"
        )
    if config.patience is not None and not config.knn_evaluations:
        raise ConfigError(f"patience={config.patience} with knn_evaluations=0: it counts those, so ask for some")
    if config.split_groups is not None and config.batchnorm not in ("auto", "split"):
        raise ConfigError(f"split_groups={config.split_groups} with batchnorm={config.batchnorm!r}: drop one of them")
    if config.batchnorm == "shuffle" and config.devices * config.num_nodes == 1:
        raise ConfigError("batchnorm='shuffle' needs at least 2 devices, here is 1: choose 'split'")
