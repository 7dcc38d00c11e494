"""The recipe `fast`, as it is."""

from benchmarks.speedrun.ours import pretrained
from benchmarks.speedrun.task import Task
from torch import nn


def train(task: Task) -> nn.Module:
    """AbsentError until the recipe is there."""
    task.own_rate_only()
    return pretrained(task, recipe="fast")
