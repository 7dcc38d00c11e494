"""What each rank does, and what one process does to compare. N: samples on a rank   W: ranks"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from moco.contrast import InChunks, MoCo, moco_step, symmetric_moco_step
from moco.contrast.collective import all_gather_cat, shapes_agreed
from moco.encoder import recomputing

TOTAL, WIDTH, STEPS = 12, 5, 4  # samples over all ranks; embedding width; steps
STEP_KINDS = {"plain": moco_step, "symmetric": symmetric_moco_step}


def without_batchnorm() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, WIDTH))


def with_batchnorm() -> nn.Module:
    body = [nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 3 * 3, 8)]
    return nn.Sequential(*body, nn.BatchNorm1d(8), nn.Linear(8, WIDTH))


def build(encoder: nn.Module, size: int = 29) -> MoCo:
    """K is no multiple of any batch here, so that the queue wraps around in the middle of one."""
    return MoCo(encoder, dictionary_size=size, embedding_dim=WIDTH, key_momentum=0.9, temperature=0.2)


def sgd(model: MoCo) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.encoder_q.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)


def parallel(model: MoCo) -> MoCo:
    """Only f_q is wrapped, as the training loop does it."""
    model.run_encoders_with(
        query=DistributedDataParallel(model.encoder_q, broadcast_buffers=False), key=model.encoder_k
    )
    return model


def recomputed(model: MoCo) -> MoCo:
    """As `parallel`, where the first convolution with its BatchNorm and the last BatchNorm are computed twice."""
    model = parallel(model)
    assert isinstance(model.encoder_q, nn.Sequential)
    assert model._call_q is not None
    blocks = [model.encoder_q[place] for place in (0, 1, 5)]
    model.run_encoders_with(query=recomputing(model._call_q, blocks), key=model.encoder_k)
    return model


def in_chunks(model: MoCo) -> MoCo:
    """As `parallel`, in chunks of at most 3 samples."""
    query = DistributedDataParallel(InChunks(model.encoder_q, 3), broadcast_buffers=False)
    model.run_encoders_with(query=query, key=InChunks(model.encoder_k, 3))
    return model


def smaller_dictionary(rank: int, dtype: Any) -> dict[str, Tensor]:
    """The queue after some steps, in fewer bits; each rank draws its start and its inputs from a seed of its own."""
    torch.manual_seed(500 + rank)
    options = {"dictionary_size": 29, "embedding_dim": WIDTH, "key_momentum": 0.9, "temperature": 0.2}
    model = parallel(MoCo(without_batchnorm(), dictionary_dtype=dtype, **options))
    for _ in range(STEPS):
        moco_step(model, torch.randn(4, 6), torch.randn(4, 6), sgd(model))
    return {name: value for name, value in state(model).items() if name.startswith("queue")}


def averaged_statistics(rank: int, world: int) -> dict[str, Any]:
    """Of the cure "average": f_k after one step and after some, and what its first layer gave on this rank."""
    torch.manual_seed(600 + rank)
    options = {"dictionary_size": 29, "embedding_dim": WIDTH, "key_momentum": 0.9, "temperature": 0.2}
    model = parallel(MoCo(with_batchnorm(), batchnorm="average", **options))
    seen: list[Tensor] = []
    model.encoder_k[1].register_forward_pre_hook(lambda _module, args: seen.append(args[0].mean(dim=(0, 2, 3))))
    after = []
    for _ in range(STEPS):
        moco_step(model, torch.randn(4, 2, 5, 5), torch.randn(4, 2, 5, 5), sgd(model))
        after.append(state(model))
    return {"own": seen[0], "first": after[0], "last": after[-1]}


def state(model: MoCo) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def shuffled_batchnorm(rank: int, world: int, wrap: Callable[[MoCo], MoCo] = parallel) -> dict[str, Any]:
    """Both kinds of step in turn; each rank draws its weights, its queue and its inputs from a seed of its own."""
    torch.manual_seed(100 + rank)
    model = wrap(build(with_batchnorm()))
    first, optimizer, pointers = state(model), sgd(model), []
    for number in range(2 * STEPS):
        step = moco_step if number % 2 == 0 else symmetric_moco_step
        step(model, torch.randn(4, 2, 5, 5), torch.randn(4, 2, 5, 5), optimizer)
        pointers.append(int(model.queue.pointer))
    return {"cure": model.batchnorm, "first": first, "state": state(model), "pointers": pointers, "world": world}


def equal_to_one_process(rank: int, world: int, kind: str, wrap: Callable[[MoCo], MoCo]) -> dict[str, Any]:
    """The same weights, queue and TOTAL samples whatever the number of ranks; a rank takes its slice."""
    torch.manual_seed(5)
    model = wrap(build(without_batchnorm()))
    mine = slice(rank * TOTAL // world, (rank + 1) * TOTAL // world)
    optimizer, losses = sgd(model), []
    for _ in range(STEPS):
        x_1, x_2 = torch.randn(TOTAL, 6), torch.randn(TOTAL, 6)
        losses.append(STEP_KINDS[kind](model, x_1[mine], x_2[mine], optimizer)[0])
    return {"losses": torch.stack(losses), "state": state(model)}


def company(rank: int, world: int) -> dict[str, Any]:
    """Which samples f_q and f_k normalise together on this rank, over several steps; samples are numbered globally."""
    torch.manual_seed(200 + rank)
    model = build(with_batchnorm())
    seen: dict[str, list[list[int]]] = {"encoder_q": [], "encoder_k": []}
    for side, batches in seen.items():
        first: nn.Module = getattr(model, side)[0]
        first.register_forward_pre_hook(
            lambda _module, args, into=batches: into.append(args[0][:, 0, 0, 0].int().tolist())
        )
    per_rank = TOTAL // world
    for _ in range(STEPS):
        x = torch.randn(per_rank, 2, 5, 5)
        x[:, 0, 0, 0] = rank * per_rank + torch.arange(per_rank)
        model.query(x)
        model.key(x)
    return seen


def own_order(rank: int) -> dict[str, Tensor]:
    """Keys of a tuple of tensors, whose f_k in inference form embeds each sample by itself, so that rows compare."""
    torch.manual_seed(300 + rank)

    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = with_batchnorm()

        def forward(self, batch: tuple[Tensor, Tensor]) -> Tensor:
            embeddings: Tensor = self.body(torch.cat(batch, dim=1))
            return embeddings

    model = build(Pair()).eval()
    pair = torch.randn(4, 1, 5, 5), torch.randn(4, 1, 5, 5)
    with torch.no_grad():
        return {"keys": model.key(pair), "expected": nn.functional.normalize(model.encoder_k(pair), dim=1)}


def gathers_of_agreed_shapes(rank: int) -> dict[str, Any]:
    """How often ranks exchange something for one gather, with and without agreement, and what they get."""
    exchanged, gather = [], dist.all_gather
    dist.all_gather = lambda *given, **more: (exchanged.append(1), gather(*given, **more))
    try:
        checked = all_gather_cat(torch.full((2,), float(rank)))
        with shapes_agreed():
            agreed = all_gather_cat(torch.full((2,), float(rank)))
        again = all_gather_cat(torch.full((2,), float(rank)))
    finally:
        dist.all_gather = gather
    return {"checked": checked, "agreed": agreed, "again": again, "exchanged": len(exchanged)}


def unequal_batches(rank: int) -> dict[str, str]:
    """The message of each rank where ranks disagree about the batch; then they still work together."""
    torch.manual_seed(400 + rank)
    length = 4 if rank == 0 else 3
    plain, normalizing = parallel(build(without_batchnorm())), parallel(build(with_batchnorm()))
    images = torch.randn(length, 2, 5, 5)
    attempts: dict[str, Callable[[], object]] = {
        "plain": lambda: moco_step(plain, torch.randn(length, 6), torch.randn(length, 6), sgd(plain)),
        "symmetric": lambda: symmetric_moco_step(plain, torch.randn(length, 6), torch.randn(length, 6), sgd(plain)),
        "shuffle": lambda: moco_step(normalizing, images, images, sgd(normalizing)),
        "padding": lambda: all_gather_cat(torch.zeros(4, 5 + rank)),
        "dimensions": lambda: all_gather_cat(torch.zeros(4, 5) if rank else torch.zeros(4)),
    }
    messages = {}
    for name, attempt in attempts.items():
        try:
            attempt()
            messages[name] = "no error"
        except ValueError as error:
            messages[name] = str(error)
    messages["afterwards"] = str(all_gather_cat(torch.tensor([rank])).tolist())
    return messages


def wrapped_already() -> str:
    """The refusal of an encoder that stands in DistributedDataParallel before the model is built."""
    try:
        build(DistributedDataParallel(without_batchnorm()))
    except TypeError as error:
        return str(error)
    return "no error"
