"""lightly's SimCLR, with the settings of its own benchmarks: temperature 0.5."""

from benchmarks.speedrun.lightly_parts import placed, trained
from benchmarks.speedrun.task import Task
from lightly.loss import NTXentLoss
from lightly.models.modules import SimCLRProjectionHead
from torch import Tensor, nn


def train(task: Task) -> nn.Module:
    """Both views through the same network, one after the other."""
    network = task.network()
    backbone, head = network.module, SimCLRProjectionHead(network.feature_dim, network.feature_dim, 128)
    placed(task, backbone, head)
    criterion = NTXentLoss(temperature=0.5)

    def loss(x_0: Tensor, x_1: Tensor) -> Tensor:
        found: Tensor = criterion(*(head(backbone(x)).float() for x in (x_0, x_1)))
        return found

    return trained(task, backbone, [*backbone.parameters(), *head.parameters()], loss)
