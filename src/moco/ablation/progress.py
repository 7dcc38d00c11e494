"""One bar for a whole grid: how much of the work is done, what is at work, how long it will take. No PyTorch."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from tqdm import tqdm

from moco.ablation.budget import spell

TELLING = 0.02  # share of the work after which this call's own pace is a better guide than the measurement


class Progress:
    """Follows the runs of a grid by the seconds that each was expected to take.

    Args:
        expected: seconds of each run, by name.
        done: share of each run that is done already, 0 to 1.
        runs: how many the grid has.
        jobs: how many go on side by side.
        show: False for silence.
    """

    def __init__(
        self, expected: Mapping[str, float], done: Mapping[str, float], *, runs: int, jobs: int, show: bool
    ) -> None:
        self._expected, self._done, self._runs, self._jobs = dict(expected), dict(done), runs, jobs
        self._open = len(expected)
        self._start, self._at_start = time.monotonic(), self.share
        interval = 0.5 if sys.stderr.isatty() else 30.0
        self._bar: Any = tqdm(
            total=100.0,
            initial=100 * self.share,
            disable=not show,
            bar_format="{percentage:3.0f}%|{bar}| {desc}",
            mininterval=interval,
            maxinterval=2 * interval,
            dynamic_ncols=True,
        )

    @property
    def share(self) -> float:
        """Of the expected work, 0 to 1."""
        total = sum(self._expected.values())
        return sum(seconds * self._done[name] for name, seconds in self._expected.items()) / total if total else 1.0

    @property
    def remaining_seconds(self) -> float:
        """Until the grid is done, at the pace of this call, or as it was expected while that says little."""
        gained = self.share - self._at_start
        if gained < TELLING:
            return (1 - self.share) * sum(self._expected.values()) / self._jobs
        return (time.monotonic() - self._start) * (1 - self.share) / gained

    def finish(self, name: str) -> None:
        """A run has ended, one way or the other."""
        self._done[name] = 1.0
        self._open -= 1

    def show(self, active: list[str], share: Callable[[str], float]) -> None:
        """Bring the bar up to date; `share` tells how far a run at work is, 0 to 1."""
        for name in active:
            self._done[name] = max(self._done[name], min(share(name), 0.999))
        said = f"{self._runs - self._open} of {self._runs} runs, about {spell(self.remaining_seconds)} left"
        self._bar.set_description_str(f"{said}: {', '.join(active)}", refresh=False)
        self._bar.update(100 * self.share - self._bar.n)

    def close(self) -> None:
        """Leave the bar on the screen."""
        self._bar.close()
