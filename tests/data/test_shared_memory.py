"""Memory that processes share has no name that a killed process could leave behind."""

import os
from pathlib import Path

import pytest
import torch

from moco.data import shared_memory
from moco.data.shared_memory import shared
from tests.data.examples import Reddish, loader, take

TENSORS = {
    "bytes": torch.arange(105, dtype=torch.uint8).view(3, 5, 7),
    "channels last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
    "a part": torch.randn(6, 4)[::2, 1:],
    "expanded": torch.randn(3, 1).expand(3, 4),
    "one": torch.tensor(7),
    "none": torch.zeros(0, 3, dtype=torch.bool),
    "learns": torch.randn(3, requires_grad=True),
}


def mapped_file(tensor: torch.Tensor) -> str:
    """What the memory of a tensor is a map of, as the system says."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        first, last = (int(part, 16) for part in line.split()[0].split("-"))
        if first <= tensor.data_ptr() < last:
            return line.split(maxsplit=5)[5]
    return ""


@pytest.mark.parametrize("nameless", [True, False])
@pytest.mark.parametrize("kind", TENSORS)
def test_a_shared_tensor_is_a_copy_in_the_same_memory_format(kind, nameless, monkeypatch):
    monkeypatch.setattr(shared_memory, "NAMELESS", nameless and shared_memory.NAMELESS)
    tensor = TENSORS[kind]
    copied = shared(tensor)
    assert copied.dtype == tensor.dtype
    assert torch.equal(copied, tensor)
    assert copied.stride() == torch.empty_like(tensor).stride()
    assert copied.is_shared()
    assert not copied.requires_grad
    assert copied.data_ptr() != tensor.data_ptr() or not tensor.nbytes


def test_descriptors_are_closed_with_the_tensor():
    before = len(os.listdir("/dev/fd"))
    for _ in range(20):
        shared(torch.zeros(10))
    assert len(os.listdir("/dev/fd")) == before


@pytest.mark.skipif(not shared_memory.NAMELESS, reason="there is no memory without a name here")
def test_views_from_workers_are_in_memory_without_a_name():
    parts = take(loader(Reddish(20), workers=2), 1)[0]
    assert {mapped_file(part) for part in parts} == {"/memfd:moco (deleted)"}


@pytest.mark.skipif(not shared_memory.NAMELESS, reason="there is no memory without a name here")
def test_a_sandbox_may_forbid_it(monkeypatch):
    def forbidden(*_):
        raise PermissionError(1, "Operation not permitted")

    assert shared_memory._can_be_nameless()
    monkeypatch.setattr(os, "memfd_create", forbidden)
    assert not shared_memory._can_be_nameless()
    monkeypatch.delattr(os, "memfd_create")
    assert not shared_memory._can_be_nameless()
