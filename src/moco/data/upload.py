"""From the host's memory onto a GPU while it computes: on a stream of its own, from pages that are locked in memory."""

from __future__ import annotations

import contextlib
from typing import Any, Self

import torch
from torch import Tensor

cuda: Any = torch.cuda  # not all of it has types
PORTABLE = 1  # cudaHostRegisterPortable, which PyTorch itself uses


class Uploads:
    """Batches on their way to the device, one at a time.

    The device's other work neither waits for a copy nor holds it up; only what uses the batch follows it. On a CPU
    nothing is copied.

    Args:
        device: where batches go.
        shared: the memory that batches lie in, where it is shared with other processes: its pages are locked with the
            first batch, when no more processes will be forked, until the end. Batches elsewhere may be pinned already.
    """

    def __init__(self, device: torch.device, shared: Tensor | None = None) -> None:
        self._device, self._shared, self._locked = device, shared, False
        self._stream: Any = None
        self._arrived: Any = None
        if device.type == "cuda":
            self._stream, self._arrived = cuda.Stream(device), cuda.Event(blocking=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.finish()
        if self._locked:
            assert self._shared is not None
            cuda.cudart().cudaHostUnregister(self._shared.data_ptr())

    def start(self, batch: Tensor) -> Tensor:
        """The batch on the device, for the current stream; its memory here is read until `finish`."""
        if self._stream is None:
            return batch.to(self._device)
        self._lock_pages()
        with cuda.stream(self._stream):
            there = batch.to(self._device, non_blocking=True)
            self._arrived.record()
        user = cuda.current_stream(self._device)
        user.wait_event(self._arrived)
        there.record_stream(user)
        return there

    def finish(self) -> None:
        """Wait until the newest batch's memory may be written again."""
        if self._arrived is not None:
            self._arrived.synchronize()

    def _lock_pages(self) -> None:
        """Where that is refused, copies are right all the same, and slower."""
        if self._shared is None or self._locked:
            return
        status = cuda.cudart().cudaHostRegister(self._shared.data_ptr(), self._shared.nbytes, PORTABLE)
        self._locked = int(status) == 0
        if not self._locked:
            self._shared = None  # asked once
            with contextlib.suppress(RuntimeError):  # CUDA keeps the error for whoever asks next
                torch.empty(1, device=self._device).zero_()
