"""Images that several tests of comparisons share."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def coloured(tmp_path_factory):
    """Three classes that differ in colour: train with 20 images each, test with 8."""
    root = tmp_path_factory.mktemp("coloured")
    generator = np.random.default_rng(0)
    for part, count in (("train", 20), ("test", 8)):
        for number, name in enumerate(("blue", "green", "red")):
            (root / part / name).mkdir(parents=True)
            for item in range(count):
                pixels = generator.integers(0, 90, (18, 20, 3), dtype=np.uint8)
                pixels[..., 2 - number] += 120
                Image.fromarray(pixels).save(root / part / name / f"{item}.png")
    return root
