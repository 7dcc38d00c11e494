"""Precision and layout follow the hardware, unless the configuration says otherwise."""

from __future__ import annotations

import os

import pytest
import torch
from torch import nn

from moco.errors import ConfigError
from moco.recipes import configure
from moco.training import device, processes
from moco.training.device import busy_remark, make_fabric, settled
from moco.training.encoder import build_checked_encoder


def hardware(monkeypatch, *, cuda=None, bf16_cpu=False):
    """Let PyTorch report this hardware; `cuda`: compute capability."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda is not None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: cuda)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bf16_cpu)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)


@pytest.mark.parametrize(
    ("kind", "precision"),
    [
        ({"cuda": (9, 0)}, "bf16"),
        ({"cuda": (8, 0)}, "bf16"),
        ({"cuda": (7, 5)}, "fp32"),
        ({"bf16_cpu": True}, "bf16"),
        ({"bf16_cpu": False}, "fp32"),
        ({"cuda": (7, 5), "bf16_cpu": True}, "fp32"),
    ],
)
def test_bf16_where_the_hardware_multiplies_it(monkeypatch, kind, precision):
    hardware(monkeypatch, **kind)
    config, reason = settled(configure("v2", {}))
    assert (config.precision, config.layout) == (precision, "channels_last")
    assert reason


@pytest.mark.parametrize(
    ("options", "precision"),
    [
        ({"image_size": 16}, "bf16"),
        ({"image_size": 8}, "fp32"),
        ({"image_size": 16, "patches": True}, "fp32"),
        ({"image_size": 32, "patches": True}, "bf16"),
        ({"image_size": 16, "progressive_resolution": "8:0.5"}, "fp32"),
        ({"image_size": 32, "small_views": 2, "small_view_size": 8}, "fp32"),
        ({"image_size": 8, "precision": "bf16"}, "bf16"),
    ],
)
def test_maps_of_one_position_are_computed_in_fp32_on_a_cpu(monkeypatch, options, precision):
    hardware(monkeypatch, bf16_cpu=True)
    config = configure("v2", {"backbone": "resnet_tiny", "batch_size": 16, **options})
    assert settled(config, build_checked_encoder(config))[0].precision == precision


def test_grouped_convolutions_are_computed_in_fp32_on_a_cpu(monkeypatch):
    hardware(monkeypatch, bf16_cpu=True)
    plain, grouped = nn.Sequential(nn.Conv2d(4, 4, 3)), nn.Sequential(nn.Conv2d(4, 4, 3, groups=4))
    assert settled(configure("v2", {}), plain)[0].precision == "bf16"
    assert settled(configure("v2", {}), grouped)[0].precision == "fp32"
    assert settled(configure("v2", {"precision": "bf16"}), grouped)[0].precision == "bf16"
    hardware(monkeypatch, cuda=(9, 0))
    assert settled(configure("v2", {}), grouped)[0].precision == "bf16"


@pytest.mark.parametrize("bf16_cpu", [False, True])
def test_what_is_configured_stays(monkeypatch, bf16_cpu):
    hardware(monkeypatch, bf16_cpu=bf16_cpu)
    for precision in ("fp32", "bf16"):
        config, _ = settled(configure("v2", {"precision": precision, "layout": "contiguous"}))
        assert (config.precision, config.layout) == (precision, "contiguous")


def test_a_gpu_that_is_not_there_is_refused(monkeypatch):
    hardware(monkeypatch)
    with pytest.raises(ConfigError, match="accelerator"):
        make_fabric(settled(configure("v2", {"accelerator": "gpu"}))[0])


def test_fabric_leaves_what_it_hides_as_it_was():
    import sys

    processes.load_fabric()
    assert sys.modules.get("torchmetrics", "absent") is not None


@pytest.mark.parametrize(
    ("options", "load", "kind", "said"),
    [
        ({}, 9.0, "cpu", True),
        ({}, 0.1, "cpu", False),
        ({"threads": 2}, 9.0, "cpu", False),
        ({"devices": 2}, 9.0, "cpu", False),
        ({}, 9.0, "cuda", False),
    ],
)
def test_a_busy_machine_is_told_where_threads_would_wait(monkeypatch, options, load, kind, said):
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(device, "cores", lambda: 4)
    remark = busy_remark(configure("v2", options), torch.device(kind))
    assert (remark is not None) is said
    assert not said or "--threads 1" in remark
