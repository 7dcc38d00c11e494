"""MoCo v3 on each rank, and on one process to compare: BatchNorm sees the whole batch. N: samples on a rank"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from moco.contrast import InChunks, MoCoV3, moco_v3_step
from moco.contrast.joint_batchnorm import JointBatchNorm
from tests.distributed.experiments import STEPS, TOTAL, WIDTH, with_batchnorm


def moco_v3(rank: int, world: int, *, chunks: bool = False, order: torch.Tensor | None = None) -> dict[str, Any]:
    """The same TOTAL samples whatever the number of ranks, a rank takes its slice; all start from rank 0's weights.

    `chunks`: two on each rank. `order`: of the samples.
    """
    torch.manual_seed(8)
    batches = [(torch.randn(TOTAL, 2, 5, 5), torch.randn(TOTAL, 2, 5, 5)) for _ in range(STEPS)]
    if order is not None:
        batches = [(x_1[order], x_2[order]) for x_1, x_2 in batches]
    torch.manual_seed(9 + rank)
    predictor = nn.Sequential(nn.Linear(WIDTH, 6, bias=False), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, WIDTH))
    encoder = nn.Sequential(with_batchnorm(), nn.BatchNorm1d(WIDTH, affine=False))
    model = MoCoV3(encoder, predictor, embedding_dim=WIDTH, key_momentum=0.9, temperature=0.5)
    query, key = model.query_side, model.encoder_k
    if chunks:
        query, key = (InChunks(encoder, TOTAL // world // 2) for encoder in (query, key))
    if world > 1:
        query = DistributedDataParallel(query, broadcast_buffers=False)
    model.run_encoders_with(query=query, key=key)
    mine = slice(rank * TOTAL // world, (rank + 1) * TOTAL // world)
    optimizer = torch.optim.SGD(model.query_side.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    losses, accuracies = [], []
    for x_1, x_2 in batches:
        loss, accuracy = moco_v3_step(model, x_1[mine], x_2[mine], optimizer)
        losses.append(loss)
        accuracies.append(accuracy)
    return {
        "losses": torch.stack(losses),
        "accuracies": torch.stack(accuracies),
        "state": {name: value.clone() for name, value in model.state_dict().items()},
        "joint": sum(isinstance(layer, JointBatchNorm) for layer in model.modules()),
    }


def own_statistics(rank: int) -> dict[str, torch.Tensor]:
    """What remains plain: `batchnorm="none"` in training, and joined layers in eval mode."""
    torch.manual_seed(10)
    options: dict[str, Any] = {"embedding_dim": WIDTH, "key_momentum": 0.9, "temperature": 0.5}
    plain = MoCoV3(with_batchnorm(), nn.Linear(WIDTH, WIDTH), batchnorm="none", **options)
    joint = MoCoV3(with_batchnorm(), nn.Linear(WIDTH, WIDTH), **options)
    images = torch.randn(4, 2, 5, 5, generator=torch.Generator().manual_seed(rank))
    plain.query(images)
    joint.query(images)
    joint.eval()
    return {
        "plain": plain.encoder_q[1].running_mean.clone(),
        "joint": joint.encoder_q[1].running_mean.clone(),
        "alone": joint.query(images[: rank + 1]).detach(),  # of other lengths: nothing is gathered in eval mode
    }
