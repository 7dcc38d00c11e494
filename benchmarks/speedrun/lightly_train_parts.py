"""What the entries of lightly-train share: its command line, in an environment of its own.

It is licensed under the AGPL, so it is called as a program and not imported; LIGHTLY_TRAIN names it where it is not on
the path. It takes torchvision's networks as they are, without a small stem, and has no channels-last.
"""

from __future__ import annotations

import os
import shutil
import subprocess

import torch
from benchmarks.speedrun.task import AbsentError, Normalized, Task
from torch import nn

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # its default


def trained(task: Task, method: str) -> nn.Module:
    """Its defaults for the method; size, length, batch, precision and seed are the track's."""
    task.own_rate_only()
    program = os.environ.get("LIGHTLY_TRAIN") or shutil.which("lightly-train")
    if program is None:
        raise AbsentError(
            "lightly-train is not installed: install it in an environment of its own, name it in LIGHTLY_TRAIN"
        )
    network = task.network()
    if not network.architecture.startswith("torchvision/") or network.stem != "standard":
        raise AbsentError(f"its command has no {network.architecture} with the stem {network.stem}")
    options = {
        "out": task.scratch / "run",
        "data": task.images,
        "model": network.architecture,
        "method": method,
        "epochs": task.epochs,
        "batch_size": 256,
        "seed": task.seed,
        "num_workers": task.workers,
        "accelerator": "gpu" if task.device.type == "cuda" else "cpu",
        "devices": 1,
        "precision": "bf16-mixed" if task.bf16 else "32-true",
        "transform_args.image_size": f"[{task.image_size},{task.image_size}]",
    }
    command = [program, "pretrain", *(f"{name}={value}" for name, value in options.items())]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(" ".join(done.stderr.split())[-300:])
    state = torch.load(task.scratch / "run" / "exported_models" / "exported_last.pt", weights_only=True)
    network.module.load_state_dict({name: value for name, value in state.items() if not name.startswith("fc.")})
    return Normalized(network.module, MEAN, STD)
