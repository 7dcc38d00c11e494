"""The authors' MoCo v2, settings chosen by hand for the size of the track; on `cifar-cpu` the rate was searched."""

from typing import Any

from benchmarks.speedrun.ours import pretrained
from benchmarks.speedrun.task import Task
from torch import nn

SMALL: dict[str, Any] = {
    "batch_size": 64,
    "dictionary_size": 1024,
    "key_momentum": 0.99,
    "base_learning_rate": 0.24,
    "weight_decay": 5e-4,
    "schedule_unit": "step",
}
TUNED: dict[str, dict[str, Any]] = {
    "cifar-cpu": {**SMALL, "blur_probability": 0.0},
    "imagenette-cpu": SMALL,
    # The authors' own CIFAR demonstration, with v2's head and temperature.
    "cifar-gpu": {
        **SMALL,
        "blur_probability": 0.0,
        "batch_size": 512,
        "dictionary_size": 4096,
        "base_learning_rate": 0.03,
    },
    "imagenette-gpu": {**SMALL, "batch_size": 256, "dictionary_size": 4096, "base_learning_rate": 0.06},
}


def train(task: Task) -> nn.Module:
    """Recipe v2 with the track's settings."""
    settings = TUNED.get(task.track, SMALL)
    rate = task.rate * settings["base_learning_rate"]
    return pretrained(task, recipe="v2", **{**settings, "base_learning_rate": rate})
