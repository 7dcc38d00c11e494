"""lightly-train's DenseCL, a method that it does not list, by its defaults."""

from benchmarks.speedrun.lightly_train_parts import trained
from benchmarks.speedrun.task import Task
from torch import nn


def train(task: Task) -> nn.Module:
    """Where it is installed and has the track's network."""
    return trained(task, "densecl")
