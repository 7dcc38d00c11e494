"""Which weights these are, as a short text."""

import hashlib

import torch
from torch import nn


def state_digest(module: nn.Module) -> str:
    """SHA-256 of a module's tensors with their names and shapes."""
    state = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        tensor = value.detach().cpu().contiguous()
        state.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        state.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return state.hexdigest()
