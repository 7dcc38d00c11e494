"""What a run costs: FLOPs, counted by PyTorch's counter, beside what its devices can do, measured.

A FLOP is a multiplication or an addition of convolutions, matrix products and attention, which are nearly all of
them. Counted is what is computed: the forward passes of f_q and f_k, the backward pass and the loss, and what
activation checkpointing or chunks compute again.
"""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count, sdpa_backward_flop_count, sdpa_flop_count

from moco.training.checkpoint import Position
from moco.training.device import peak_memory_bytes
from moco.training.metrics import Progress

if TYPE_CHECKING:
    from lightning_fabric import Fabric

PEAK_SECONDS = 0.1  # of measuring
_SIDES = (256, 512, 1024, 2048, 4096, 8192)  # of the matrices, as far as time goes


class Cost:
    """Keeps account of a run in its position: FLOPs of all ranks, and what these could have computed meanwhile.

    Args:
        fabric: the device and its peers, whose shares of a batch are equal.
        bf16: whether the run multiplies in bf16.
        position: where the account is kept.
    """

    def __init__(self, fabric: Fabric, position: Position, *, bf16: bool) -> None:
        self._ranks, self._position = fabric.world_size, position
        self._before = (position.seconds, position.capacity)
        fabric.barrier()  # processes that share a machine measure it together
        peak = torch.tensor(measured_peak(fabric.device, torch.get_num_threads(), bf16=bf16), dtype=torch.float64)
        if self._ranks > 1:
            peak = fabric.all_reduce(peak.float().to(fabric.device), reduce_op="sum")  # type: ignore[assignment]
        self._peak = float(peak)
        self._counted: dict[Hashable, int] = {}  # FLOPs of a step, by its kind

    @contextmanager
    def step(self, progress: Progress, kind: Hashable) -> Iterator[None]:
        """Around a step; the first one of a kind is counted, and others of it cost the same.

        `progress`: since this account began.
        """
        if kind in self._counted:
            yield
        else:
            with counted() as counter:
                yield
            self._counted[kind] = counter.get_total_flops()
        now, spent, (seconds, capacity) = self._position, progress.seconds, self._before
        now.flops += self._counted[kind] * self._ranks
        now.seconds, now.capacity = seconds + spent, capacity + spent * self._peak


def most_memory(fabric: Fabric) -> int:
    """Peak memory in bytes of the process that has taken most; every rank asks."""
    own = peak_memory_bytes(fabric.device)
    if fabric.world_size == 1:
        return own
    return int(fabric.all_reduce(torch.tensor(float(own), device=fabric.device), reduce_op="max"))  # type: ignore[arg-type]


def counted() -> FlopCounterMode:
    """A context that counts what is computed in it, and changes none of it."""
    counter = FlopCounterMode(display=False, custom_mapping=_FORMULAS)
    counter.mod_tracker = _NoModules()  # type: ignore[assignment]
    return counter


class _NoModules:
    """Instead of the counter's tracker, which hangs hooks on all modules to tell which one a FLOP belongs to."""

    parents = ("Global",)

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def _convolution_backward(
    grad_shape: Any, x_shape: Any, w_shape: Any, *rest: Any, out_val: Any = None, **_: Any
) -> int:
    """The forward pass again for each of both gradients; PyTorch's formula has that of the weights times groups."""
    transposed, output_mask = rest[4], rest[7]
    return int(output_mask[0] + output_mask[1]) * int(
        conv_flop_count(x_shape, w_shape, grad_shape, transposed=transposed)
    )


def _attention(q_shape: Any, k_shape: Any, v_shape: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(q_shape, k_shape, v_shape))  # type: ignore[no-untyped-call]


def _attention_backward(grad_shape: Any, q_shape: Any, k_shape: Any, v_shape: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_backward_flop_count(grad_shape, q_shape, k_shape, v_shape))  # type: ignore[no-untyped-call]


# What PyTorch's counter leaves out (attention on a CPU), or counts too high.
_FORMULAS: dict[Any, Any] = {
    torch.ops.aten.convolution_backward: _convolution_backward,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}


@lru_cache
def measured_peak(device: torch.device, threads: int, *, bf16: bool) -> float:
    """FLOP/s of the fastest square matrix product, up to 8192 a side, in about a tenth of a second.

    In bf16, or in fp32 as convolutions compute it (TF32 on GPUs that have it). `threads`: of a CPU, by which a
    measurement is kept. Random numbers of the run stay as they are.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if device.type == "cuda" and torch.backends.cudnn.allow_tf32 else before)
    try:
        best, began = 0.0, time.perf_counter()
        for side in _SIDES:
            numbers = torch.linspace(-1, 1, side * side, dtype=torch.bfloat16 if bf16 else torch.float32, device=device)
            seconds = [_product_seconds(numbers.view(side, side)) for _ in range(4)]
            best = max(best, 2 * side**3 / min(seconds[1:]))  # in the first one, libraries take what they need
            if time.perf_counter() - began > PEAK_SECONDS or 8 * min(seconds) > PEAK_SECONDS:
                break
        return best
    finally:
        torch.set_float32_matmul_precision(before)


def _product_seconds(matrix: Tensor) -> float:
    began = time.perf_counter()
    product = matrix @ matrix
    if matrix.device.type != "cpu":
        float(product[0, 0])  # waits for it
    return time.perf_counter() - began
