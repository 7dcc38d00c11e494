"""The recipe `fast`: v2 with muon and stated numbers."""

from benchmarks.speedrun.ours import pretrained
from benchmarks.speedrun.task import Task
from torch import nn

from moco.recipes import RECIPES


def train(task: Task) -> nn.Module:
    """Network, size and length are the track's."""
    rate = task.rate * RECIPES["fast"]().base_learning_rate
    return pretrained(task, recipe="fast", base_learning_rate=rate)
