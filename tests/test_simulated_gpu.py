"""What a step asks of a GPU: nothing that makes the CPU wait, no tensor of the wrong device, and the CPU's numbers."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import sys

import numpy as np
import pytest
import torch

import moco.data.loader
from moco.data import fused
from moco.data.arrays import ArraySource
from moco.data.folder import FolderSource
from moco.data.loader import ViewLoader
from moco.data.order import EpochOrder
from moco.data.skipped import SkippedFiles
from moco.data.views import photometric_views
from moco.mechanisms import build_model
from moco.recipes import configure
from moco.training.encoder import build_checked_encoder
from moco.training.loop import STEPS
from moco.training.optimizer import make_optimizer
from moco.workload import view_recipe
from tests.simulated_gpu import (
    DEVICE,
    HostWaitError,
    OnDevice,
    WrongDeviceError,
    inside,
    moved,
    simulated_gpu,
)

BATCH, SIZE = 16, 32


def there(tensor):
    return tensor.to(DEVICE, non_blocking=True)


@pytest.mark.parametrize(
    ("error", "act"),
    [
        (HostWaitError, lambda x: x.sum().item()),
        (HostWaitError, lambda x: bool((x > 0).any())),
        (HostWaitError, lambda x: x[x > 0]),
        (HostWaitError, lambda x: x.cpu()),
        (HostWaitError, lambda x: torch.zeros(3).copy_(x)),
        (HostWaitError, lambda x: torch.zeros(3).to(DEVICE)),
        (HostWaitError, lambda x: x.copy_(torch.zeros(3))),
        (HostWaitError, lambda x: torch.tensor([1.0], device=DEVICE)),
        (WrongDeviceError, lambda x: x + torch.zeros(3)),
        (WrongDeviceError, lambda x: x[torch.tensor([0, 1])]),
    ],
)
def test_the_device_refuses_what_a_gpu_would_and_what_is_waited_for(error, act, monkeypatch):
    with simulated_gpu(monkeypatch):
        x = there(torch.ones(3))
        with pytest.raises(error):
            act(x)
        y = (2 * x[1:]).add_(torch.ones(2, device=DEVICE))
    assert isinstance(y, OnDevice)
    assert y.device == DEVICE
    assert inside(y).tolist() == [3.0, 3.0]


@pytest.mark.parametrize("color", ["exact", "fast", "fused"])
@pytest.mark.parametrize("name", ["v1", "v2", "cifar", "v3"])
def test_colours(name, color, monkeypatch):
    monkeypatch.setattr(fused, "compiled", lambda: (fused.colours, fused.normalized))
    fuse = color == "fused"
    recipe = view_recipe(configure(name, {"color": "exact" if fuse else color}))
    taken = dataclasses.replace(recipe, color=color)
    crops = torch.randint(0, 256, (2, BATCH, 3, SIZE, SIZE), dtype=torch.uint8)
    expected = photometric_views(crops, recipe, torch.Generator().manual_seed(0))
    with simulated_gpu(monkeypatch):
        found = photometric_views(there(crops), taken, torch.Generator().manual_seed(0))
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(inside(other), one, rtol=0, atol=1e-4 if fuse else 0)


def views(source, device, monkeypatch, **options):
    order = EpochOrder(np.arange(len(source)), batch_size=BATCH, seed=1)
    recipe, size = view_recipe(configure("v2", {})), {"image_size": SIZE, "workers": 2}
    loader = ViewLoader(source, order, recipe, device=device, skipped=SkippedFiles(), **size, **options)
    gpu = simulated_gpu(monkeypatch) if device.type == "cuda" else contextlib.nullcontext()
    with gpu, contextlib.closing(loader.batches(0)) as batches:
        made = [tuple(view.clone() for view in step) for step in itertools.islice(batches, 5)]
    return [[inside(view) if device.type == "cuda" else view for view in step] for step in made]


def test_views_of_an_array_that_lies_on_the_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2**40, 2**40))
    source = ArraySource(np.random.default_rng(0).integers(0, 256, (60, 40, 36, 3), dtype=np.uint8))
    found = views(source, DEVICE, monkeypatch, cache_bytes=2**30)
    for one, other in zip(views(source, torch.device("cpu"), monkeypatch), found, strict=True):
        assert all(torch.allclose(a, b, atol=0.02) for a, b in zip(one, other, strict=True))  # crops in one block


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes are forked on Linux only")
def test_views_of_files_come_by_way_of_processes(photos, monkeypatch):
    class Copies(moco.data.loader.Uploads):
        """Without the driver's part."""

        def __init__(self, device, shared):
            super().__init__(torch.device("cpu"), shared)

        def start(self, batch):
            return there(batch)

    monkeypatch.setattr(moco.data.loader, "Uploads", Copies)
    source = FolderSource(photos)
    found = views(source, DEVICE, monkeypatch, processes=True)
    for one, other in zip(views(source, torch.device("cpu"), monkeypatch), found, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


TINY = {"backbone": "resnet_tiny", "image_size": SIZE, "batch_size": BATCH, "embedding_dim": 16, "precision": "fp32"}
QUEUE = {**TINY, "dictionary_size": 40}
V3 = {**TINY, "hidden_dim": 32}
RUNS = {
    "moco": ("v2", QUEUE),
    "symmetric": ("v2", {**QUEUE, "symmetric": True}),
    "without a cure": ("v2", {**QUEUE, "batchnorm": "none"}),
    "averaged": ("v2", {**QUEUE, "batchnorm": "average"}),
    "split unevenly": ("v2", {**QUEUE, "batchnorm": "split", "split_groups": 3}),
    "v1": ("v1", QUEUE),
    "adamw": ("v2", {**QUEUE, "optimizer": "adamw"}),
    "memory bank": ("v2", {**QUEUE, "mechanism": "memory-bank", "key_momentum": None, "bank_momentum": 0.5}),
    "end to end": ("v2", {**TINY, "mechanism": "end-to-end", "dictionary_size": None, "key_momentum": None}),
    "v3": ("v3", V3),
    "v3 ViT": ("v3-vit", {**V3, "backbone": "v3/vit_small"}),
    "ResNet-18": ("v2", {**QUEUE, "backbone": "resnet18"}),
}


def trained(model, config, inputs):
    """Loss and accuracy of the second of two steps."""
    optimizer, step = make_optimizer(model, config), STEPS[config.mechanism, config.symmetric]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for _ in range(2):
            values = step(model, *inputs, optimizer, backward=torch.Tensor.backward)
    return values


@pytest.mark.parametrize("name", RUNS)
def test_a_step_of_each_mechanism(name, monkeypatch):
    recipe, options = RUNS[name]
    config = configure(recipe, options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_model(build_checked_encoder(config), config, images=64)
        model = model.to(memory_format=torch.channels_last).train()
        inputs = [torch.randn(BATCH, 3, SIZE, SIZE).contiguous(memory_format=torch.channels_last) for _ in range(2)]
    if config.mechanism == "memory-bank":
        inputs[1] = torch.randperm(64)[:BATCH]
    trained(model, config, inputs)  # the first step is checked, for which the host waits
    with simulated_gpu(monkeypatch):
        gpu = moved(model)
        found = trained(gpu, config, [there(part) for part in inputs])
    for value, expected in zip(found, trained(model, config, inputs), strict=True):
        torch.testing.assert_close(inside(value), expected, rtol=1e-4, atol=1e-5)
    for (key, value), (other_key, other) in zip(model.state_dict().items(), gpu.state_dict().items(), strict=True):
        assert key == other_key
        torch.testing.assert_close(inside(other), value, rtol=1e-3, atol=1e-4)
