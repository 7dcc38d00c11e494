"""What a step asks of a GPU: nothing that makes the CPU wait, no tensor of the wrong device, and the CPU's numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from moco.data.arrays import ArraySource
from moco.data.order import EpochOrder
from moco.data.recipe_views import RecipeViews
from moco.data.views import view_recipe
from moco.recipes import configure
from moco.training.encoder import build_checked_encoder
from moco.training.mechanism import STEPS, build_model
from moco.training.optimizer import make_optimizer
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


@pytest.mark.parametrize("name", ["v1", "v2", "cifar", "v3"])
def test_a_step_of_views(name, monkeypatch):
    """Crops come from a worker; the colours are made on the device, with the CPU's numbers."""
    source = ArraySource(np.random.default_rng(0).integers(0, 256, (60, 40, 36, 3), dtype=np.uint8))
    order = EpochOrder(np.arange(60), batch_size=BATCH, seed=1)
    samples, recipe = order.batch(2), view_recipe(configure(name, {}))
    images = [("", source.pixels(sample.image)) for sample in samples]
    expected = RecipeViews(recipe, SIZE, order, device_type="cpu").in_worker(images, samples)
    make = RecipeViews(recipe, SIZE, order, device_type="cuda")
    crops = make.in_worker(images, samples)
    with simulated_gpu(monkeypatch):
        found = make.on_device(tuple(map(there, crops)), samples)
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(inside(other), one, rtol=0, atol=1e-5)


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
    "muon": ("v2", {**QUEUE, "optimizer": "muon"}),
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
