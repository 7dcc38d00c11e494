"""The options of a run as keyword arguments, so that an editor completes them."""

from __future__ import annotations

from typing import TypedDict

from moco import config
from moco.sizes import StatedSize


class Options(TypedDict, total=False):
    """Fields of `moco.Config`, which says what each means; those that differ from the recipe's are given."""

    mechanism: config.Mechanism
    num_heads: int | None
    frozen_layers: float | None
    image_size: StatedSize
    progressive_resolution: str | None
    stem: config.Stem
    head: config.Head
    hidden_dim: int | None
    zero_init_residual: bool
    freeze_patch_projection: bool
    embedding_dim: int
    dictionary_size: int | None
    dictionary_dtype: config.DictionaryDtype
    key_momentum: float | None
    key_momentum_every: int
    key_momentum_schedule: config.KeyMomentumSchedule
    bank_momentum: float | None
    temperature: float
    decoupled: bool
    nearest_positives: float
    nearest_positives_from: float
    small_views: int
    small_view_size: StatedSize | None
    small_crop: tuple[float, float]
    patches: bool
    batchnorm: config.BatchNormCure
    split_groups: int | None
    symmetric: bool
    crop_min: float
    fixed_crop: bool
    brightness: float
    contrast: float
    saturation: float
    hue: float
    jitter_probability: float
    grayscale_probability: float
    grayscale_first: bool
    blur_probability: float
    blur_probability_2: float | None
    solarize_probability: float
    solarize_probability_2: float | None
    flip_probability: float
    vertical_flip_probability: float
    rotate_probability: float
    normalization: str
    batch_size: int
    epochs: int | None
    steps: int | None
    optimizer: config.Optimizer
    base_learning_rate: float
    sgd_momentum: float
    weight_decay: float
    schedule: config.Schedule
    schedule_unit: config.ScheduleUnit
    lr_milestones: tuple[float, ...]
    lr_decay: float
    warmup_steps: int
    warmup_epochs: int
    head_warmup_steps: int
    precision: config.Precision
    layout: config.Layout
    compile: bool
    activation_checkpointing: bool
    chunk_size: int | None
    accelerator: config.Accelerator
    devices: int
    num_nodes: int
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    workers: int | None
    cache_gib: float
    threads: int | None
    seed: int
    test: str | None
    labels: str | None
    held_out: float
    knn_evaluations: int
    patience: int | None
    knn_images: int
    num_neighbors: int
    knn_temperature: float
    channels: int | None
    value_range: int | tuple[float, float] | None
    data_root: str | None
    log_every: int
    checkpoint_minutes: float
    keep_checkpoints: int
