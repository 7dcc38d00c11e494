"""What the process computes on is told as the system tells it."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import sys

import pytest
import torch

from moco import hardware


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_cores_are_those_that_the_process_may_use():
    everything = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(everything)})
        assert hardware.cores() == 1
        assert hardware.name(torch.device("cpu")).endswith(", 1 cores")
    finally:
        os.sched_setaffinity(0, everything)
    assert hardware.cores() == len(everything)


def test_the_processor_is_named_or_else_the_platform_is_asked(tmp_path, monkeypatch):
    listing = tmp_path / "cpuinfo"
    monkeypatch.setattr(hardware, "Path", lambda _: listing)
    monkeypatch.setattr(platform, "processor", lambda: "asked")
    assert hardware.processor() == "asked"
    listing.write_text("flags\t: fpu\nmodel name\t: Fast One: 3\nmodel name\t: Other\n")
    assert hardware.processor() == "Fast One: 3"
    listing.write_text("flags\t: fpu\n")
    assert hardware.processor() == ""
    assert hardware.name(torch.device("cpu")).startswith("cpu, ")


SETTLE = """
import sys
{before}
from moco import hardware
hardware.settle()
import torch
print(hardware.can_fork())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes are forked on Linux only")
@pytest.mark.parametrize(
    ("before", "variables", "expected"),
    [
        ("", {}, True),
        ("import torch", {}, False),
        ("import torch", hardware.SETTINGS, True),
        ("", {"MKL_DISABLE_FAST_MM": "0"}, False),
    ],
)
def test_a_process_may_fork_that_was_settled_before_pytorch_was_loaded(before, variables, expected):
    environment = {name: value for name, value in os.environ.items() if name not in hardware.SETTINGS}
    said = subprocess.run(
        [sys.executable, "-c", SETTLE.format(before=before)],
        env=environment | variables,
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.strip() == str(expected)


def test_convolutions_are_tried_inside_and_the_callers_setting_comes_back(monkeypatch):
    for setting in (False, True):
        monkeypatch.setattr(torch.backends.cudnn, "benchmark", setting)
        with contextlib.suppress(ValueError), hardware.convolutions_tried():
            assert torch.backends.cudnn.benchmark
            raise ValueError
        assert torch.backends.cudnn.benchmark is setting
