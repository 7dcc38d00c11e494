"""A trained backbone as one safetensors file that says what it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from moco.atomic import replaced
from moco.version import __version__


def write_backbone(backbone: nn.Module, path: Path, *, metadata: dict[str, Any]) -> None:
    """Write parameters and buffers under their own library's names, whole or not at all.

    The file's header holds `metadata` (architecture, stem, feature_dim, preprocessing, ...), see `header_of`. Reading
    it runs no code.

    Raises:
        RunError: the file system refused.
    """
    with replaced(path) as partial:
        write_tensors(backbone.state_dict(), partial, metadata=header_of(metadata))


def header_of(metadata: dict[str, Any]) -> dict[str, str]:
    """The texts that a file's header holds: each value as JSON text, and `moco_version`."""
    header = {name: value if isinstance(value, str) else json.dumps(value) for name, value in metadata.items()}
    return {**header, "moco_version": __version__}


def write_tensors(tensors: Mapping[str, Tensor], path: Path, *, metadata: dict[str, str]) -> None:
    """A safetensors file with the permissions of any new file; equal tensors and metadata give equal bytes. Tensors
    that share memory are each written.
    """
    from safetensors.torch import save

    whole = {name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in tensors.items()}
    content = save(whole)  # alone: the library would put the metadata in another order each time
    size = int.from_bytes(content[:8], "little")
    header = {"__metadata__": dict(sorted(metadata.items())), **json.loads(content[8 : 8 + size])}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the tensors stay aligned
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.write(memoryview(content)[8 + size :])
