"""lightly's MoCo, with the settings of its own benchmarks: both directions, 4,096 keys, temperature 0.1."""

import copy

import torch
from benchmarks.speedrun.lightly_parts import placed, trained
from benchmarks.speedrun.task import Task
from lightly.loss import NTXentLoss
from lightly.models.modules import MoCoProjectionHead
from lightly.models.utils import deactivate_requires_grad, update_momentum
from torch import Tensor, nn


def train(task: Task) -> nn.Module:
    """Keys of the running batch are enqueued after each direction, as lightly's memory bank does."""
    network = task.network()
    backbone, head = network.module, MoCoProjectionHead(network.feature_dim, network.feature_dim, 128)
    placed(task, backbone, head)
    key_backbone, key_head = copy.deepcopy(backbone), copy.deepcopy(head)
    deactivate_requires_grad(key_backbone)
    deactivate_requires_grad(key_head)
    criterion = NTXentLoss(temperature=0.1, memory_bank_size=(4096, 128)).to(task.device)

    def loss(x_0: Tensor, x_1: Tensor) -> Tensor:
        update_momentum(backbone, key_backbone, m=0.99)
        update_momentum(head, key_head, m=0.99)
        losses = []
        for x_q, x_k in ((x_0, x_1), (x_1, x_0)):
            query = head(backbone(x_q))
            with torch.no_grad():
                key = key_head(key_backbone(x_k))
            losses.append(criterion(query.float(), key.float()))
        return 0.5 * (losses[0] + losses[1])

    return trained(task, backbone, [*backbone.parameters(), *head.parameters()], loss)
