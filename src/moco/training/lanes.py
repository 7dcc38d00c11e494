"""A batch in two halves on a CPU: each half of the cores encodes half of the samples.

Splitting every operator over the cores makes them wait for each other hundreds of times a step. Two lanes, each with
half of the threads and half of the samples, wait for each other once (docs/log.md says what that gains). The result is
that of the whole batch, up to rounding, where samples meet nobody but their own BatchNorm group: a lane holds whole
groups.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from moco.contrast.batchnorm import SplitBatchNorm, has_batchnorm, resolve_groups

LANES = 2  # two gradients add up to the same sum in either order; three would not
# How long one lane's Python code may keep the other's waiting. Python's own 5 ms is as long as several layers.
SWITCH_SECONDS = 1e-5
SAME = 2e-2  # largest difference between the two ways, beside embeddings of about 1: bfloat16 resolves 0.008
Encode = Callable[[nn.Module, Any], Tensor]


class Lanes:
    """Two threads with half of PyTorch's threads each; they end with the object.

    Args:
        threads: CPU threads of the whole process, at least 2.
    """

    def __init__(self, threads: int) -> None:
        self._threads = [ThreadPoolExecutor(1, thread_name_prefix=f"moco-lane-{lane}") for lane in range(LANES)]
        before = torch.get_num_threads()
        self.run(_use_threads, [threads // LANES] * LANES)
        torch.set_num_threads(before)  # the call in a lane changed what later threads begin with

    def run(self, function: Callable[..., Any], *per_lane: Any) -> list[Any]:
        """`function` once in each lane, at the same time, with that lane's element of each argument."""
        before = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH_SECONDS)
        try:
            futures = [
                thread.submit(function, *arguments)
                for thread, arguments in zip(self._threads, zip(*per_lane, strict=True), strict=True)
            ]
            return [future.result() for future in futures]
        finally:
            sys.setswitchinterval(before)


def _use_threads(threads: int) -> None:
    torch.set_num_threads(threads)
    torch.get_num_threads()  # reads the process's number once a thread; from here on this thread keeps its own


class LanedEncoder:
    """Calls an encoder on the two halves of a batch at once; gradients arrive in the encoder's own parameters.

    BatchNorm statistics of both halves are averaged into the encoder's own, as split BatchNorm averages its groups. A
    batch that does not fall into two lanes of whole groups is encoded as a whole.

    Args:
        encoder: what is called; both lanes share its parameters.
        encode: how it, or a replica, is called on samples (precision belongs here).
        lanes: the threads.
        split_groups: BatchNorm groups of a whole batch, as `SplitBatchNorm` takes them.
    """

    def __init__(self, encoder: nn.Module, encode: Encode, lanes: Lanes, *, split_groups: int | None) -> None:
        self._encoder, self._encode, self._lanes, self._split_groups = encoder, encode, lanes, split_groups
        self._has_batchnorm = has_batchnorm(encoder)
        self._replicas = [_replica(encoder) for _ in range(LANES)]
        self._anchor = next((p for p in encoder.parameters() if p.requires_grad), None)

    def __call__(self, batch: Tensor) -> Tensor:
        """(N, ...) -> (N, C)."""
        groups = lane_groups(len(batch), self._split_groups) if self._has_batchnorm else 1
        if groups is None or len(batch) % LANES:
            return self._encode(self._encoder, batch)
        self._prepare(groups)
        halves = batch.tensor_split(LANES)
        if self._anchor is not None and torch.is_grad_enabled():
            embeddings: Tensor = _InLanes.apply(self._anchor, self, halves)
        else:
            embeddings = torch.cat(self._lanes.run(self._forward, self._replicas, halves))
        self._average_buffers()
        return embeddings

    def _forward(self, replica: nn.Module, half: Tensor) -> Tensor:
        with torch.no_grad():  # a thread begins with gradients enabled
            return self._encode(replica, half)

    @torch.no_grad()
    def _prepare(self, groups: int) -> None:
        own = list(self._encoder.buffers())
        for replica in self._replicas:
            if replica.training != self._encoder.training:
                replica.train(self._encoder.training)
            for layer in replica.modules():
                if isinstance(layer, SplitBatchNorm):
                    layer.groups = groups
            if own:
                torch._foreach_copy_(list(replica.buffers()), own)

    @torch.no_grad()
    def _average_buffers(self) -> None:
        first, second = (list(replica.buffers()) for replica in self._replicas)
        for own, one, other in zip(self._encoder.buffers(), first, second, strict=True):
            own.copy_((one + other) / LANES if own.is_floating_point() else one)


class _InLanes(torch.autograd.Function):
    """One node of the graph; behind it each lane keeps the graph of its half."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, encoder: LanedEncoder, halves: tuple[Tensor, ...]) -> Tensor:
        ctx.lanes = encoder._lanes
        ctx.outputs = encoder._lanes.run(encoder._encode, encoder._replicas, halves)
        return torch.cat([output.detach() for output in ctx.outputs])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None, None]:
        ctx.lanes.run(torch.autograd.backward, ctx.outputs, grad.tensor_split(LANES))
        ctx.outputs = None
        return None, None, None


def _replica(encoder: nn.Module) -> nn.Module:
    """A copy with the same parameters and with buffers of its own."""
    shared = {id(parameter): parameter for parameter in encoder.parameters()}
    return copy.deepcopy(encoder, memo=dict(shared))


def lane_groups(batch_size: int, split_groups: int | None) -> int | None:
    """BatchNorm groups of each lane; None where the batch does not fall into two lanes of whole, equal groups."""
    groups = resolve_groups(split_groups, batch_size)
    return groups // LANES if groups % LANES == 0 and batch_size % groups == 0 else None


def independent_halves(encoder: nn.Module, images: Tensor, *, split_groups: int | None) -> bool:
    """Whether two lanes compute what the whole batch does: no random draws, no meeting of samples but in BatchNorm.

    `encoder`: a copy to spoil, its BatchNorm already split; `images`: a batch for it.
    """
    lanes = Lanes(max(LANES, torch.get_num_threads()))
    before = torch.get_rng_state()
    with torch.no_grad():
        whole = encoder(images)
        if not torch.equal(before, torch.get_rng_state()):
            return False
        laned = LanedEncoder(encoder, lambda module, half: module(half), lanes, split_groups=split_groups)(images)
    return bool(torch.allclose(whole, laned, rtol=SAME, atol=SAME * float(whole.abs().max())))
