"""Which values of a configuration go together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from moco.errors import ArchitectureError, ConfigError
from moco.fields import check_processes
from moco.sizes import SMALLEST_SIDE, height_width, size_text, small_size

PLAIN_HEADS, V3_HEADS = ("linear", "mlp", "none"), ("v3-resnet", "v3-vit")
# Which of the fields in LACKING each mechanism has.
MECHANISM_FIELDS: dict[str, tuple[str, ...]] = {
    "moco": ("dictionary_size", "key_momentum"),
    "memory-bank": ("dictionary_size", "bank_momentum"),
    "end-to-end": (),
    "moco-v3": ("key_momentum",),
    "curl": ("key_momentum",),
}
# Options of the loss that belong to the mechanism moco, and why.
VARIANTS = {
    "nearest_positives": "there is no queue of keys to find the nearest one in",
    "small_views": "further queries belong to the keys of a key encoder with its queue",
    "patches": "further queries belong to the keys of a key encoder with its queue",
}
LACKING = {
    "dictionary_size": "the batch as its dictionary",
    "key_momentum": "no key encoder that follows",
    "bank_momentum": "no memory bank",
}


# Options that count beside some values of the others only: when, and in words. What is switched off by a 0 of its own
# (knn_evaluations, jitter_probability, ...) may keep its settings: that is how one switches it off for a while.
COUNTS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "lr_milestones lr_decay": (lambda c: c.schedule == "step", "with the step schedule"),
    "schedule_unit": (lambda c: c.schedule != "constant", "with a schedule that changes the learning rate"),
    "crop_min": (lambda c: not c.fixed_crop, "with crops that are resized, without fixed_crop"),
    "sgd_momentum": (lambda c: c.optimizer != "adamw", "with optimizer sgd, lars and muon"),
    "nearest_positives_from": (lambda c: c.nearest_positives > 0, "with nearest_positives"),
    "small_view_size small_crop": (lambda c: c.small_views > 0, "with small_views"),
    "held_out": (lambda c: c.test is None, "without a test set"),
}


# Fields that a transform of the user's replaces.
VIEW_FIELDS = (
    *("crop_min", "brightness", "contrast", "saturation", "hue", "jitter_probability", "grayscale_probability"),
    *("grayscale_first", "blur_probability", "blur_probability_2", "solarize_probability", "solarize_probability_2"),
    *("flip_probability", "vertical_flip_probability", "rotate_probability", "fixed_crop"),
)
# Those that a whole configuration cannot have beside a transform, because nothing would honour them.
DRAWN_VIEWS = ("progressive_resolution", "small_views", "small_view_size", "small_crop")


def check_stated(given: Mapping[str, Any], *, own_views: bool) -> None:
    """Raise ConfigError for what this machine or a transform of the user's rules out in the options of a new run."""
    for name, least in (("workers", 0), ("threads", 1), ("devices", 1)):
        check_processes(name, given.get(name), least=least)
    needless = [name for name in (*VIEW_FIELDS, *DRAWN_VIEWS) if own_views and name in given]
    if needless:
        raise ConfigError(f"{needless[0]} with transform, which makes the views by itself: leave one of them out")


def check_own_views(config: Any) -> None:
    """Raise ConfigError for views that a transform of the user's would have to make, and does not know of."""
    for name in DRAWN_VIEWS[:2]:
        if getattr(config, name):
            raise ConfigError(f"{name} with transform, which makes the views by itself: leave one of them out")


def check_factory(name: str | None, *, file: object, allowed: bool) -> None:
    """Raise ArchitectureError where a file names a function that nobody has allowed to be called."""
    if name is not None and ":" in name and not allowed:
        raise ArchitectureError(
            f"{file} names the function {name}, which would be called: allow it if you trust it "
            "(allow_factory=True, --allow-factory; pretrain takes its name as --backbone)"
        )


def check_needless(config: Any, stated: Mapping[str, Any]) -> None:
    """Raise ConfigError for a stated value that would change nothing beside the others."""
    for fields, (counts, where) in COUNTS.items():
        for field in fields.split():
            if stated.get(field) is not None and not counts(config):
                raise ConfigError(f"{field}={stated[field]} would change nothing: it counts {where}; leave it out")


def check_together(config: Any) -> None:
    """For `Config`: raise ConfigError where values contradict one another; it names them and what to do."""
    _ = config.sizes  # refuses what progressive_resolution cannot be
    _check_mechanism(config)
    _check_variants(config)
    _check_length(config)
    _check_combinations(config)
    _check_windows(config)
    _check_memory(config)


def _check_variants(config: Any) -> None:
    """What `moco.contrast.variants` does belongs to MoCo's own mechanism."""
    for name, why in VARIANTS.items():
        if getattr(config, name) and config.mechanism != "moco":
            raise ConfigError(
                f"{name}={getattr(config, name)} with mechanism {config.mechanism!r}: {why}; choose 'moco', or leave "
                "it out"
            )
    if config.patches and config.small_views:
        raise ConfigError("patches with small_views: either gives a key its further queries, drop one of them")
    sizes = [height_width(size) for size, _ in config.sizes.shares()]
    odd = [side for size in sizes for side in size if side % 2]
    if config.patches and odd:
        raise ConfigError(f"patches of views of {odd[0]} pixels: they have no halves, need an even image_size")
    if config.small_views:
        small, said = small_size(config.small_view_size, config.image_size), f"small_views={config.small_views}"
        least = tuple(map(min, zip(*sizes, strict=True)))
        if min(height_width(small)) < SMALLEST_SIDE or any(
            a >= b for a, b in zip(height_width(small), least, strict=True)
        ):
            raise ConfigError(
                f"{said} of {size_text(small)} pixels beside views of {size_text(least)}: need a small_view_size from "
                f"{SMALLEST_SIDE} to below that of the others"
            )


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
    if config.symmetric and config.mechanism in ("memory-bank", "end-to-end", "curl"):
        raise ConfigError(f"symmetric with mechanism {config.mechanism!r}: it belongs to 'moco', leave it out")
    lacking = {"memory-bank": ("average", "shuffle"), "end-to-end": ("average",)}
    if config.batchnorm in lacking.get(config.mechanism, ()):
        raise ConfigError(
            f"batchnorm={config.batchnorm!r} with mechanism {config.mechanism!r}, which has no key encoder of its "
            "own: choose 'auto'"
        )
    if config.decoupled and config.mechanism == "memory-bank" and config.dictionary_size == 1:
        raise ConfigError("decoupled with dictionary_size=1: a query's own image may be the one, need at least 2")
    if config.decoupled and config.mechanism == "curl":
        raise ConfigError("decoupled with mechanism 'curl', whose loss has the positive among its keys: leave it out")
    if config.mechanism in ("end-to-end", "moco-v3", "curl") and config.batch_size < 2:
        raise ConfigError(
            f"batch_size=1 with {config.mechanism}: negatives are the batch's other keys, need at least 2"
        )
    if (config.head in V3_HEADS) != (config.mechanism == "moco-v3"):
        fitting = ", ".join(V3_HEADS if config.mechanism == "moco-v3" else PLAIN_HEADS)
        raise ConfigError(f"head={config.head!r} with mechanism {config.mechanism!r}: choose one of {fitting}")
    _check_key_momentum(config)
    if config.mechanism == "moco-v3":
        _check_v3(config)


def _check_key_momentum(config: Any) -> None:
    if config.key_momentum is None and config.key_momentum_schedule != "constant":
        raise ConfigError(f"key_momentum_schedule with mechanism {config.mechanism!r}: it has no key encoder to slow")
    if config.key_momentum is None and config.key_momentum_every != 1:
        raise ConfigError(
            f"key_momentum_every={config.key_momentum_every} with mechanism {config.mechanism!r}: it has no key "
            "encoder to move, leave it out"
        )


def _check_v3(config: Any) -> None:
    if not config.symmetric:
        raise ConfigError("symmetric=False with mechanism 'moco-v3': its loss has both directions, leave it out")
    if config.batchnorm not in ("auto", "none") or config.split_groups is not None:
        raise ConfigError(
            f"batchnorm={config.batchnorm!r}, split_groups={config.split_groups} with mechanism 'moco-v3', which "
            "normalises over all devices: choose 'auto', or 'none' for each device by itconfig, without groups"
        )


def _check_length(config: Any) -> None:
    if config.epochs is not None and config.steps is not None:
        raise ConfigError(f"epochs={config.epochs} and steps={config.steps}: give exactly one of the two")
    if config.warmup_epochs and (config.warmup_steps or config.warmup_epochs >= (config.epochs or 0)):
        raise ConfigError(
            f"warmup_epochs={config.warmup_epochs} with warmup_steps={config.warmup_steps}, epochs={config.epochs}: "
            "give fewer than the epochs of the run, or warmup_steps alone"
        )
    if config.steps is not None and config.warmup_steps >= config.steps:
        raise ConfigError(f"warmup_steps={config.warmup_steps} with steps={config.steps}: warm up for fewer steps")
    if config.steps is not None and config.head_warmup_steps >= config.steps:
        raise ConfigError(f"head_warmup_steps={config.head_warmup_steps} with steps={config.steps}: take fewer")


def _check_combinations(config: Any) -> None:
    if config.batch_size % (config.devices * config.num_nodes):
        raise ConfigError(
            f"batch_size={config.batch_size} on {config.devices * config.num_nodes} devices: "
            "choose a multiple, so that every device gets the same share"
        )
    if config.hidden_dim is not None and config.head in ("linear", "none"):
        raise ConfigError(f"hidden_dim={config.hidden_dim} with head={config.head!r}, which has no layer in between")
    if config.head_warmup_steps and config.head == "none":
        raise ConfigError(f"head_warmup_steps={config.head_warmup_steps} with head='none': no head is there to learn")
    if config.frozen_layers and config.init is None:
        share = f"frozen_layers={config.frozen_layers:g}"
        raise ConfigError(f"{share} without init: random layers have to learn, leave it out")
    if config.frozen_layers and config.batchnorm not in ("auto", "frozen", "none"):
        raise ConfigError(
            f"frozen_layers={config.frozen_layers:g} with batchnorm={config.batchnorm!r}, which changes their "
            "statistics: choose batchnorm 'frozen', or frozen_layers 0"
        )
    if config.patience is not None and not config.knn_evaluations:
        raise ConfigError(f"patience={config.patience} with knn_evaluations=0: it counts those, so ask for some")
    if config.split_groups is not None and config.batchnorm not in ("auto", "split"):
        raise ConfigError(f"split_groups={config.split_groups} with batchnorm={config.batchnorm!r}: drop one of them")
    if config.batchnorm == "shuffle" and config.devices * config.num_nodes == 1:
        raise ConfigError("batchnorm='shuffle' needs at least 2 devices, here is 1: choose 'split'")


def _check_windows(config: Any) -> None:
    """What has no meaning where crops are windows of image_size."""
    if not config.fixed_crop:
        return
    for name in ("progressive_resolution", "small_views"):
        if getattr(config, name):
            raise ConfigError(
                f"{name}={getattr(config, name)} with fixed_crop: smaller views would show less and not the same made "
                "smaller, drop one of them"
            )
    height, width = height_width(config.image_size)
    if config.rotate_probability and height != width:
        raise ConfigError(
            f"rotate_probability={config.rotate_probability} with fixed_crop and image_size="
            f"{size_text(config.image_size)}: a window that is not square cannot be turned, drop one of them"
        )


def _check_memory(config: Any) -> None:
    if config.chunk_size is not None and config.chunk_size >= config.batch_size_per_rank:
        raise ConfigError(
            f"chunk_size={config.chunk_size} with {config.batch_size_per_rank} samples a device, which pass at once: "
            "choose fewer, or leave it out"
        )
    if config.compile and config.activation_checkpointing:
        raise ConfigError(
            "compile with activation_checkpointing: a compiler decides itself what is computed again, drop one of them"
        )
