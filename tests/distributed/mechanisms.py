"""The mechanisms beside MoCo on each rank, and on one process to compare. N: samples on a rank   W: ranks"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel

from moco.contrast import ContrastiveModel, EndToEnd, InChunks, MemoryBank, end_to_end_step, memory_bank_step
from moco.contrast.collective import all_gather_cat
from tests.distributed.experiments import STEPS, TOTAL, WIDTH, with_batchnorm, without_batchnorm

SAMPLES = 40
KINDS = ("end-to-end", "end-to-end shuffled", "memory-bank", "end-to-end in chunks", "memory-bank in chunks")


def build(kind: str, world: int) -> ContrastiveModel:
    """BatchNorm stands in inference form where keys are shuffled, so that company changes nothing."""
    options: dict[str, Any] = {"embedding_dim": WIDTH, "temperature": 0.2}
    if "memory-bank" in kind:
        return MemoryBank(without_batchnorm(), num_samples=SAMPLES, dictionary_size=15, bank_momentum=0.5, **options)
    if "shuffled" in kind:
        return EndToEnd(with_batchnorm(), batchnorm="shuffle" if world > 1 else "none", **options).eval()
    return EndToEnd(without_batchnorm(), **options)


def mechanism(rank: int, world: int, kind: str) -> dict[str, Any]:
    """The same weights, bank and TOTAL samples whatever the number of ranks; a rank takes its slice."""
    torch.manual_seed(6)
    shape = (TOTAL, 2, 5, 5) if "shuffled" in kind else (TOTAL, 6)
    batches = [(torch.randn(shape), torch.randn(shape), torch.randperm(SAMPLES)[:TOTAL]) for _ in range(STEPS)]
    torch.manual_seed(7 + rank)  # rank 0's weights and draws are the ones that count
    model = build(kind, world)
    if world > 1:  # one process takes the whole batch at once
        query = InChunks(model.encoder_q, 3) if "chunks" in kind else model.encoder_q
        model.run_encoders_with(query=DistributedDataParallel(query, broadcast_buffers=False))
    mine = slice(rank * TOTAL // world, (rank + 1) * TOTAL // world)
    optimizer = torch.optim.SGD(model.encoder_q.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    losses, accuracies = [], []
    for x_1, x_2, indices in batches:
        if isinstance(model, MemoryBank):
            loss, accuracy = memory_bank_step(model, x_1[mine], indices[mine], optimizer)
        else:
            assert isinstance(model, EndToEnd)
            loss, accuracy = end_to_end_step(model, x_1[mine], x_2[mine], optimizer)
        losses.append(loss)
        accuracies.append(accuracy)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    return {"losses": torch.stack(losses), "accuracies": torch.stack(accuracies), "state": state}


def defaults() -> dict[str, str]:
    """The cures that several ranks take by themselves."""
    options: dict[str, Any] = {"embedding_dim": WIDTH, "temperature": 0.2}
    bank = MemoryBank(with_batchnorm(), num_samples=SAMPLES, dictionary_size=15, bank_momentum=0.5, **options)
    return {"end-to-end": EndToEnd(with_batchnorm(), **options).batchnorm, "memory-bank": bank.batchnorm}


def backward_once_more(rank: int) -> torch.Tensor:
    """Gradient of a rank's own part of what all ranks gather: each rank weighs the rows by its own number plus one."""
    local = torch.full((2, 3), float(rank), requires_grad=True)
    (all_gather_cat(local) * (rank + 1)).sum().backward()
    assert local.grad is not None
    return local.grad
