"""What values the fields of a configuration may take, each by itself, and which of them a mechanism has."""

from __future__ import annotations

from typing import Literal

Mechanism = Literal["moco", "memory-bank", "end-to-end", "moco-v3"]
Head = Literal["linear", "mlp", "v3-resnet", "v3-vit"]
Stem = Literal["auto", "small", "standard"]
Optimizer = Literal["sgd", "lars", "adamw"]
Schedule = Literal["cosine", "step"]
KeyMomentumSchedule = Literal["constant", "cosine"]
ScheduleUnit = Literal["epoch", "step"]
Precision = Literal["auto", "fp32", "bf16"]
Layout = Literal["auto", "channels_last", "contiguous"]
Compile = Literal["auto", "on", "off"]
Lanes = Literal["auto", "on", "off"]
Accelerator = Literal["auto", "cpu", "gpu", "mps"]
BatchNormCure = Literal["auto", "split", "shuffle", "average", "none"]
Normalization = Literal["imagenet", "cifar"]
Color = Literal["exact", "fast"]
KnnNumber = int | Literal["auto"]
V3_HEADS: tuple[Head, ...] = ("v3-resnet", "v3-vit")
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
AT_LEAST = {
    "image_size": 8,
    "embedding_dim": 1,
    "hidden_dim": 1,
    "dictionary_size": 1,
    "split_groups": 1,
    "batch_size": 1,
    "epochs": 1,
    "steps": 1,
    "weight_decay": 0,
    "brightness": 0,
    "contrast": 0,
    "saturation": 0,
    "warmup_steps": 0,
    "warmup_epochs": 0,
    "devices": 1,
    "num_nodes": 1,
    "workers": 1,
    "cache_gib": 0,
    "threads": 1,
    "seed": 0,
    "knn_evaluations": 0,
    "knn_images": 2,
    "num_neighbors": 1,
    "log_every": 1,
    "checkpoint_minutes": 0,
}
AUTO_OR_NUMBER = {"knn_evaluations": "a number, 0 for none", "knn_images": "a number of at least 2"}
SHARES = (
    "key_momentum",
    "bank_momentum",
    "jitter_probability",
    "grayscale_probability",
    "blur_probability",
    "blur_probability_2",
    "solarize_probability",
    "solarize_probability_2",
    "flip_probability",
    "sgd_momentum",
    "lr_decay",
)
CHOICES = {
    "mechanism": Mechanism,
    "stem": Stem,
    "head": Head,
    "optimizer": Optimizer,
    "schedule": Schedule,
    "key_momentum_schedule": KeyMomentumSchedule,
    "schedule_unit": ScheduleUnit,
    "precision": Precision,
    "layout": Layout,
    "compile": Compile,
    "lanes": Lanes,
    "accelerator": Accelerator,
    "batchnorm": BatchNormCure,
    "normalization": Normalization,
    "color": Color,
}
