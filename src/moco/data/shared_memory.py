"""Memory that processes share and that has no name, so that one that is killed leaves nothing in the file system.

PyTorch opens a name in /dev/shm, fills the memory, and only then removes the name; a kill in between leaves it there.
"""

from __future__ import annotations

import os
import shutil
from typing import Any

import torch
from torch import Tensor

NAMED = "/dev/shm"
SPARE = 2**27  # bytes; containers often have 64 MiB of named shared memory


def _can_be_nameless() -> bool:
    """Linux, unless a sandbox forbids it."""
    try:
        os.close(os.memfd_create("moco"))
    except (AttributeError, OSError):
        return False
    return True


NAMELESS = _can_be_nameless()  # no size of /dev/shm limits it


def shared(tensor: Tensor) -> Tensor:
    """A copy of a tensor on the CPU, in its memory format, whose memory is handed to other processes as it is.

    Where the system has only memory with names, or the tensor has no bytes: as PyTorch shares it.

    Raises:
        OSError: there is no memory left.
    """
    if not NAMELESS or not tensor.nbytes:
        copied: Tensor = tensor.detach().clone().share_memory_()  # type: ignore[no-untyped-call]
        return copied
    descriptor = os.memfd_create("moco")
    try:
        os.ftruncate(descriptor, tensor.nbytes)
        taken: Any = torch.UntypedStorage  # its stubs lack what PyTorch's own multiprocessing calls
        storage = taken._new_shared_fd_cpu(descriptor, tensor.nbytes)  # which takes a copy of the descriptor
    finally:
        os.close(descriptor)
    strides = torch.empty_like(tensor, device="meta").stride()
    made = torch.empty(0, dtype=tensor.dtype).set_(storage, 0, tensor.shape, strides)
    return made.copy_(tensor.detach())


def scarce() -> bool:
    """Whether there is too little memory with names for batches; False where nobody can tell."""
    try:
        return shutil.disk_usage(NAMED).free < SPARE
    except OSError:  # no such place on this system
        return False
