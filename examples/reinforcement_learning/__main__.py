"""python -m examples.reinforcement_learning: train, grid, curves, video, frames, probe."""

from __future__ import annotations

import sys

from examples.reinforcement_learning.commands import main

if __name__ == "__main__":
    sys.exit(main())
