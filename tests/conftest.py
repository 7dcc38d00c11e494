"""Fixtures that several rooms share."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from moco.training.callbacks import Callback

torch.set_num_threads(1)  # tests run side by side; tiny operations split over busy cores crawl
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background; commands must hear it
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A nested folder of 24 small JPEG files of two classes, of differing sizes, with one stray text file."""
    return write_photos(tmp_path / "photos")


def write_photos(folder: Path) -> Path:
    """As `photos`, at this place."""
    generator = np.random.default_rng(0)
    for number in range(24):
        side = 20 + number % 5
        pixels = generator.integers(0, 256, (side, side + 3, 3), dtype=np.uint8)
        place = folder / ("cats", "dogs")[number % 2] / f"roll{number % 3}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"{number:02d}.jpg")
    (folder / "cats" / "notes.txt").write_text("not an image")
    return folder


@pytest.fixture
def tiny() -> dict[str, object]:
    """Options of a run that takes a second."""
    return {
        "recipe": "v2",
        "backbone": "resnet_tiny",
        "image_size": 16,
        "batch_size": 4,
        "dictionary_size": 10,
        "embedding_dim": 8,
        "steps": 6,
        "num_neighbors": 3,
        "knn_evaluations": 2,
        "held_out": 0.25,
        "log_every": 2,
        "threads": 1,
        "workers": 0,
    }


class StopAt(Callback):
    """Ends a run after so many steps, as Ctrl-C would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, training):
        training.stop = training.stop or training.step >= self.step
