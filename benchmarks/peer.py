"""lightly's MoCo v2, put together from its own parts as its documentation shows, to be measured beside ours.

    python benchmarks/peer.py JOB

It makes a step whenever it reads the line "step" and says how long it waited for data; at "rest" its loader ends.
"""

from __future__ import annotations

import copy
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torchvision
from lightly.data import LightlyDataset
from lightly.loss import NTXentLoss
from lightly.models.modules import MoCoProjectionHead
from lightly.models.utils import deactivate_requires_grad, update_momentum
from lightly.transforms import MoCoV2Transform
from torch import nn

from moco.config import Config


class LightlyMoCo:
    """Encoder, memory bank, data loader and step, without a BatchNorm cure; fp32 as published, or with our settings."""

    def __init__(self, config: Config, folder: Path, device: torch.device, *, same: bool) -> None:
        self.device, self.bf16 = device, same and config.precision == "bf16"
        self.layout = torch.channels_last if same and config.layout == "channels_last" else torch.contiguous_format
        network = torchvision.models.get_model(config.backbone.removeprefix("torchvision/"), weights=None)
        width = network.fc.in_features
        self.backbone = nn.Sequential(*list(network.children())[:-1]).to(device)
        self.head = MoCoProjectionHead(width, width, config.embedding_dim).to(device)
        self.backbone.to(memory_format=self.layout)
        self.key_backbone, self.key_head = copy.deepcopy(self.backbone), copy.deepcopy(self.head)
        deactivate_requires_grad(self.key_backbone)
        deactivate_requires_grad(self.key_head)
        self.loss = NTXentLoss(memory_bank_size=(config.dictionary_size, config.embedding_dim)).to(device)
        parameters = [*self.backbone.parameters(), *self.head.parameters()]
        self.optimizer = torch.optim.SGD(parameters, lr=0.06)
        dataset = LightlyDataset(str(folder), transform=MoCoV2Transform(input_size=config.image_size))
        self.loader = torch.utils.data.DataLoader(
            dataset,
            batch_size=config.batch_size,
            shuffle=True,
            drop_last=True,
            num_workers=min(16, os.cpu_count() or 1),
        )

    def batches(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Pairs of views, epoch after epoch."""
        while True:
            for views, _, _ in self.loader:
                yield views[0], views[1]

    def step(self, x_q: torch.Tensor, x_k: torch.Tensor) -> None:
        """One step."""
        update_momentum(self.backbone, self.key_backbone, m=0.99)
        update_momentum(self.head, self.key_head, m=0.99)
        x_q, x_k = (x.to(self.device).contiguous(memory_format=self.layout) for x in (x_q, x_k))
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16):
            query = self.head(self.backbone(x_q).flatten(1))
            with torch.no_grad():
                key = self.key_head(self.key_backbone(x_k).flatten(1))
        self.loss(query.float(), key.float()).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def main() -> None:
    """Do what standard input says, until it ends."""
    job = json.loads(sys.argv[1])
    config = Config(**{name: tuple(v) if isinstance(v, list) else v for name, v in job["config"].items()})
    peer = LightlyMoCo(config, Path(job["folder"]), torch.device(job["device"]), same=job["form"] == "same")
    batches = peer.batches()
    for line in sys.stdin:
        waited = 0.0
        if line.strip() == "rest":
            batches.close()
            batches = peer.batches()
        else:
            began = time.perf_counter()
            views = next(batches)
            waited = time.perf_counter() - began
            peer.step(*views)
            if peer.device.type == "cuda":
                torch.cuda.synchronize(peer.device)
        print(waited, flush=True)


if __name__ == "__main__":
    main()
