"""A lane: `python -m moco.training.lane_process JOB`, started by `moco.training.lanes`.

It encodes half of each batch when it is told to, and ends when the process that started it is gone.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import traceback
from typing import Any

import torch
from torch import Tensor, nn

from moco.config import Config
from moco.contrast.momentum import frozen_copy
from moco.hardware import keep_freed_memory
from moco.training.encoder import build_checked_encoder
from moco.training.lanes import (
    BACKWARD,
    DONE,
    FAILED,
    GRAPH,
    READY,
    lane_groups,
    shared_exchange,
    split_for_lanes,
)
from moco.training.replica import Replica

MESSAGE_BYTES = 10  # what to do, with which encoder, number of the graph


class Lane:
    """A lane's encoders.

    Args:
        job: as `Lanes` writes it.

    Attributes:
        digest: of what is shared for queries.
    """

    def __init__(self, job: dict[str, Any]) -> None:
        stated: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in job["config"].items()}
        config = Config(**stated)
        self._half_precision = config.precision == "bf16"
        query = split_for_lanes(build_checked_encoder(config), config)
        groups = lane_groups(config.batch_size_per_rank, config.split_groups) or 1
        encoders = [query] if config.key_momentum is None else [query, frozen_copy(query)]
        exchanges = [shared_exchange(encoder, config, job["memory"], side) for side, encoder in enumerate(encoders)]
        self.digest = exchanges[0].digest
        self._passages = [exchange.passages[job["lane"]] for exchange in exchanges]
        self._replicas = [
            Replica(encoder, exchange.weights, self._encode, groups=groups)
            for encoder, exchange in zip(encoders, exchanges, strict=True)
        ]

    def _encode(self, encoder: nn.Module, samples: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self._half_precision):
            embeddings: Tensor = encoder(samples)
            return embeddings

    def obey(self, message: bytes) -> None:
        """Do what is told; everything comes from and goes into shared memory."""
        what, side, number = message[:1], message[1], int.from_bytes(message[2:], "little")
        passage, replica = self._passages[side], self._replicas[side]
        if what == BACKWARD:
            gradients = replica.backward(number, passage.pull)
            for place, (shared, gradient) in enumerate(zip(passage.gradients, gradients, strict=True)):
                passage.touched[place] = gradient is not None
                if gradient is not None:
                    shared.copy_(gradient)
            return
        own = list(replica.module.buffers())
        if own:
            torch._foreach_copy_(own, passage.buffers)
        samples = passage.samples.clone()  # the next pass comes into the same memory, and a graph keeps its samples
        passage.embeddings.copy_(replica.forward(samples, number if what == GRAPH else None))
        if own:
            torch._foreach_copy_(passage.buffers, own)


def main() -> None:
    """Serve until standard input ends, or nobody is there for the answers."""
    with contextlib.suppress(BrokenPipeError):
        _serve()


def _serve() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # sent to all of a job, it is for the process that started this one
    keep_freed_memory()
    job = json.loads(sys.argv[1])
    torch.set_num_threads(job["threads"])
    lane = Lane(job)
    os.write(job["answer"], READY + lane.digest.encode())
    while True:
        message = sys.stdin.buffer.read(MESSAGE_BYTES)
        if len(message) < MESSAGE_BYTES:
            return
        try:
            lane.obey(message)
        except Exception:  # whatever the user's network raises is for that process to report
            traceback.print_exc()
            os.write(job["answer"], FAILED)
        else:
            os.write(job["answer"], DONE)


if __name__ == "__main__":
    main()
