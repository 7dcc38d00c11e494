"""A trained backbone as one safetensors file that says what it is."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from moco.version import __version__


def write_backbone(backbone: nn.Module, path: Path, *, metadata: dict[str, Any]) -> None:
    """Write parameters and buffers under their own library's names, whole or not at all.

    The file's header holds `metadata` (architecture, stem, feature_dim, preprocessing, ...), each value as JSON text,
    and `moco_version`. Reading it runs no code.
    """
    header = {name: value if isinstance(value, str) else json.dumps(value) for name, value in metadata.items()}
    partial = path.with_name(path.name + ".partial")
    write_tensors(backbone.state_dict(), partial, metadata={**header, "moco_version": __version__})
    os.replace(partial, path)


def write_tensors(tensors: Mapping[str, Tensor], path: Path, *, metadata: dict[str, str]) -> None:
    """A safetensors file with the permissions of any new file; tensors that share memory are each written."""
    from safetensors.torch import save

    whole = {name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in tensors.items()}
    path.write_bytes(save(whole, metadata=metadata))
