"""Inputs of all scenarios, made once: folders of small images, an array, a pack, a trained run, a checkpoint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

COUNT = 24


def make_images(data: Path) -> None:
    """labelled/ (two classes), plain/, damaged/ (a fifth of its files is), images.npz."""
    generator = np.random.default_rng(0)
    for number in range(COUNT):
        side = 18 + number % 5
        pixels = generator.integers(0, 160, (side, side + 3, 3), dtype=np.uint8) + np.uint8(90 * (number % 2))
        image = Image.fromarray(pixels)
        for name in (f"labelled/{('cats', 'dogs')[number % 2]}/{number:02d}.jpg", f"plain/{number:02d}.png"):
            (data / name).parent.mkdir(parents=True, exist_ok=True)
            image.save(data / name)
        place = data / "damaged" / f"{number:02d}.jpg"
        place.parent.mkdir(exist_ok=True)
        image.save(place)
        if number % 5 == 4:
            place.write_bytes(place.read_bytes()[: 300 + number])
    pixels = generator.integers(0, 120, (48, 16, 16, 3)) + 100 * (np.arange(48) % 2)[:, None, None, None]
    parts = {"x_train": pixels[:32].astype(np.uint8), "x_test": pixels[32:].astype(np.uint8)}
    np.savez(data / "images.npz", **parts, y_train=np.arange(32) % 2, y_test=np.arange(32, 48) % 2)


def make_foreign(data: Path) -> None:
    """foreign.pth: torchvision's ResNet-18 with random weights."""
    from torchvision.models import resnet18

    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(resnet18().state_dict(), data / "foreign.pth")


# What the other inputs are made with, in this order.
COMMANDS = (
    "pretrain labelled --out run --recipe v2 --backbone resnet_tiny --image-size 16 --batch-size 8 --embedding-dim 8 "
    "--dictionary-size 16 --steps 6 --threads 1 --workers 0 --held-out 0.25 --num-neighbors 3 --quiet --accelerator "
    "cpu",
    "pack labelled --out images.pack --short-side 16 --quiet",
    "import foreign.pth --out imported --image-size 32",
)
