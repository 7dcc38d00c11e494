"""`moco pretrain FOLDER` without a recipe: what is not stated fits itself to images, machine and length."""

from benchmarks.speedrun.ours import pretrained
from benchmarks.speedrun.task import Task
from torch import nn


def train(task: Task) -> nn.Module:
    """The rules decide batch, dictionary, key momentum, learning rate and views."""
    task.own_rate_only()
    return pretrained(task, recipe=None)
