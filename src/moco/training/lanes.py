"""A batch in two halves on a CPU: two more processes encode one each, on half of the cores.

Splitting every operator over the cores makes them wait for each other hundreds of times a step. Two lanes wait for each
other once in each pass; being processes, they share no interpreter lock, neither with each other nor with the loader's
threads in this process (docs/log.md says what that gains). The result is that of the whole batch, up to rounding, where
samples meet nobody but their own BatchNorm group: a lane holds whole groups.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from moco.config import Config
from moco.contrast.batchnorm import resolve_groups, split_batchnorm
from moco.errors import RunError
from moco.training.encoder import memory_format
from moco.training.replica import DIGEST, Arena, Encode, Exchange, anonymous_memory, exchange_bytes

LANES = 2
SAME = 2e-2  # largest difference between the two ways, beside embeddings of about 1: bfloat16 resolves 0.008
QUERY, KEY = 0, 1  # a lane's encoders
FORWARD, GRAPH, BACKWARD = b"f", b"g", b"b"  # what it is told: a pass without a graph, with one, back through one
READY, DONE, FAILED = b"r", b"d", b"e"  # what it answers


@dataclasses.dataclass(frozen=True)
class _Lane:
    process: subprocess.Popen[bytes]
    answers: int  # file descriptor


class Lanes:
    """The processes, started at once and waited for when they are first needed; they end with the object.

    Args:
        config: of the run; each process builds the same encoders from it.
        encoder: one of them, for its shapes.

    Attributes:
        processes: one for each lane.
        close: ends them.

    Raises:
        RunError: where they are used and one has ended.
    """

    def __init__(self, config: Config, encoder: nn.Module) -> None:
        self._config = config
        side_bytes = exchange_bytes(encoder, LANES, lane_shape(config), config.embedding_dim)
        self._memory = anonymous_memory(len((QUERY, KEY)) * side_bytes)
        self._lanes = [self._start(number) for number in range(LANES)]
        self.processes = [lane.process for lane in self._lanes]
        self._digests: set[str] = set()
        self.close = weakref.finalize(self, _end, self._lanes, self._memory)

    def _start(self, number: int) -> _Lane:
        answers, answer = os.pipe()
        job = {
            "config": dataclasses.asdict(self._config),
            "lane": number,
            "memory": self._memory,
            "answer": answer,
            "threads": max(1, torch.get_num_threads() // LANES),
        }
        # What is imported here must be found there: a backbone may come from a module of the user's.
        path = os.pathsep.join(entry for entry in sys.path if entry)
        process = subprocess.Popen(
            [sys.executable, "-m", "moco.training.lane_process", json.dumps(job)],
            stdin=subprocess.PIPE,
            pass_fds=(self._memory, answer),
            env={**os.environ, "PYTHONPATH": path},
            bufsize=0,
            process_group=0,  # out of reach of the terminal's Ctrl-C, from its first moment on
        )
        os.close(answer)
        return _Lane(process, answers)

    def exchange(self, encoder: nn.Module, side: int) -> Exchange:
        """What is shared for one encoder; each lane has made the same.

        Raises:
            RunError: it has not.
        """
        exchange = shared_exchange(encoder, self._config, self._memory, side)
        if not self._digests:
            self._digests = {self._read(lane, len(READY) + DIGEST)[len(READY) :].decode() for lane in self._lanes}
        if side == QUERY and self._digests != {exchange.digest}:
            raise RunError("a lane's process has built another encoder than this one: choose --lanes off")
        return exchange

    def run(self, what: bytes, side: int, number: int = 0) -> None:
        """Tell all lanes what to do, and wait until they have."""
        message = what + bytes([side]) + number.to_bytes(8, "little")
        for lane in self._lanes:
            assert lane.process.stdin is not None
            try:
                lane.process.stdin.write(message)
            except OSError as error:
                raise RunError(self._gone(lane)) from error
        answers = [self._read(lane, len(DONE)) for lane in self._lanes]
        if answers != [DONE] * len(self._lanes):
            raise RunError("a lane failed (its message stands above): choose --lanes off")

    def _read(self, lane: _Lane, count: int) -> bytes:
        content = b""
        while len(content) < count:
            part = os.read(lane.answers, count - len(content))
            if not part:
                raise RunError(self._gone(lane))
            content += part
        return content

    def _gone(self, lane: _Lane) -> str:
        return (
            f"a lane's process ended (exit code {lane.process.wait()}), perhaps for want of memory; "
            "the last good checkpoint is kept: resume, with --lanes off if it happens again"
        )


def _end(lanes: list[_Lane], memory: int) -> None:
    """Close what the processes wait for, which ends them."""
    for lane in lanes:
        assert lane.process.stdin is not None
        lane.process.stdin.close()
    for lane in lanes:
        lane.process.wait()
        os.close(lane.answers)
    os.close(memory)


class LanedEncoder:
    """Calls an encoder on the two halves of a batch at once; gradients arrive in the encoder's own parameters.

    BatchNorm statistics of both halves are averaged into the encoder's own, as split BatchNorm averages its groups. A
    batch of another size than the run's is encoded as a whole, and so is all in eval mode.

    Args:
        encoder: what is called, with split BatchNorm.
        encode: how it is called as a whole (precision belongs here).
        lanes: the processes.
        side: QUERY or KEY.
    """

    def __init__(self, encoder: nn.Module, encode: Encode, lanes: Lanes, side: int) -> None:
        self._encoder, self._encode, self._lanes, self._side = encoder, encode, lanes, side
        self._exchange = lanes.exchange(encoder, side)
        self._passages = self._exchange.passages
        self._shape = torch.Size([LANES * len(self._passages[0].samples), *self._passages[0].samples.shape[1:]])
        self._learnt = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
        self.number = 0

    def __call__(self, batch: Tensor) -> Tensor:
        """(N, ...) -> (N, C), float32."""
        if batch.shape != self._shape or not self._encoder.training:
            return self._encode(self._encoder, batch)
        if self._learnt and torch.is_grad_enabled():
            embeddings: Tensor = _InLanes.apply(self._learnt[0], self, batch)
            return embeddings
        return self.forward(batch, keep_graph=False)

    @torch.no_grad()
    def forward(self, batch: Tensor, *, keep_graph: bool) -> Tensor:
        """Both halves' embeddings, detached; the lanes keep their graphs under `self.number`, where they shall."""
        torch._foreach_copy_(self._exchange.weights, list(self._encoder.parameters()))
        own = list(self._encoder.buffers())
        for passage, part in zip(self._passages, batch.tensor_split(LANES), strict=True):
            passage.samples.copy_(part)
            if own:
                torch._foreach_copy_(passage.buffers, own)
        self.number += 1
        self._lanes.run(GRAPH if keep_graph else FORWARD, self._side, self.number)
        for buffer, theirs in zip(own, zip(*(passage.buffers for passage in self._passages), strict=True), strict=True):
            buffer.copy_(torch.stack(theirs).mean(dim=0) if buffer.is_floating_point() else theirs[0])
        return torch.cat([passage.embeddings for passage in self._passages])

    @torch.no_grad()
    def backward(self, number: int, pull: Tensor) -> None:
        """Add the lanes' gradients to those of the encoder's parameters; always in the same order."""
        for passage, part in zip(self._passages, pull.tensor_split(LANES), strict=True):
            passage.pull.copy_(part)
        self._lanes.run(BACKWARD, self._side, number)
        touched = self._passages[0].touched.tolist()  # the lanes' graphs are alike
        first, second = ([g for g, t in zip(p.gradients, touched, strict=True) if t] for p in self._passages)
        learnt = [parameter for parameter, t in zip(self._learnt, touched, strict=True) if t]
        for parameter, total in zip(learnt, torch._foreach_add(first, second), strict=True):
            parameter.grad = total if parameter.grad is None else parameter.grad.add_(total)


class _InLanes(torch.autograd.Function):
    """One node of the graph; behind it each lane keeps the graph of its half."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, encoder: LanedEncoder, batch: Tensor) -> Tensor:
        embeddings = encoder.forward(batch, keep_graph=True)
        ctx.encoder, ctx.number = encoder, encoder.number
        return embeddings

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None, None]:
        ctx.encoder.backward(ctx.number, grad)
        return None, None, None


def shared_exchange(encoder: nn.Module, config: Config, memory: int, side: int) -> Exchange:
    """What all processes share for the encoder of one side; each of them makes it alike."""
    samples = lane_shape(config)
    offset = side * exchange_bytes(encoder, LANES, samples, config.embedding_dim)
    return Exchange(
        encoder,
        Arena(memory, offset=offset),
        lanes=LANES,
        samples=samples,
        embedding_dim=config.embedding_dim,
        half_precision=config.precision == "bf16",
    )


def split_for_lanes(encoder: nn.Module, config: Config) -> nn.Module:
    """The encoder as the model has it: split BatchNorm, in the run's layout."""
    return split_batchnorm(encoder, config.split_groups).to(memory_format=memory_format(config.layout))


def lane_shape(config: Config) -> torch.Size:
    """A lane's images: (N / 2, C, H, W)."""
    return torch.Size([config.batch_size_per_rank // LANES, 3, config.image_size, config.image_size])


def lane_groups(batch_size: int, split_groups: int | None) -> int | None:
    """BatchNorm groups of each lane; None where the batch does not fall into two lanes of whole, equal groups."""
    groups = resolve_groups(split_groups, batch_size)
    return groups // LANES if groups % LANES == 0 and batch_size % groups == 0 else None


@torch.no_grad()
def independent_halves(encoder: nn.Module, images: Tensor, *, split_groups: int) -> bool:
    """Whether two halves give what the whole batch does: no random draws, no meeting of samples but in BatchNorm.

    `encoder`: a copy to spoil, its BatchNorm split into an even number of groups; `images`: a batch for it.
    """
    before = torch.get_rng_state()
    whole = encoder(images)
    if not torch.equal(before, torch.get_rng_state()):
        return False
    split_batchnorm(encoder, split_groups // LANES)
    halves = torch.cat([encoder(half) for half in images.tensor_split(LANES)])
    return bool(torch.allclose(whole, halves, rtol=SAME, atol=SAME * float(whole.abs().max())))
