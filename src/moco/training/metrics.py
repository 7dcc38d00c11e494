"""What a run says while it works: metrics.jsonl, TensorBoard events, a progress bar."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm


class MetricsWriter:
    """Appends to metrics.jsonl and to TensorBoard events; silent on ranks other than 0.

    Args:
        folder: the run folder; None writes nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self._file = (folder / "metrics.jsonl").open("a", encoding="utf-8") if folder else None
        self._events: Any = None
        if folder:
            from torch.utils.tensorboard import SummaryWriter

            self._events = SummaryWriter(str(folder))

    def write(self, step: int, **values: float) -> None:
        """One line {"step": ..., name: value, ...}; the same scalars as TensorBoard events."""
        if self._file is None:
            return
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._events.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush and close both files."""
        if self._file is not None:
            self._file.close()
            self._events.close()


class Progress:
    """Progress bar with images/s, remaining time, loss, kNN and the share of time spent waiting for data.

    On a terminal it redraws in place; elsewhere it prints a line every half minute.

    Args:
        total: images in the whole run.
        done: images already seen (a resumed run).
        show: False on ranks other than 0 and where the caller wants silence.
    """

    def __init__(self, total: int, done: int, *, show: bool) -> None:
        interval = 0.5 if sys.stderr.isatty() else 30.0
        self._bar = tqdm(
            total=total,
            initial=done,
            disable=not show,
            unit="img",
            unit_scale=True,
            mininterval=interval,
            maxinterval=2 * interval,
            dynamic_ncols=True,
        )
        self._said: dict[str, str] = {}
        self.images = 0
        self.wait_seconds = 0.0
        self._pause_seconds = 0.0
        self._start = time.perf_counter()
        self._stop: float | None = None

    @property
    def seconds(self) -> float:
        """Wall-clock seconds of training until `stop`, without the pauses for evaluation and checkpoints."""
        now = time.perf_counter() if self._stop is None else self._stop
        return now - self._start - self._pause_seconds

    @property
    def images_per_second(self) -> float:
        """Images of this process and its peers per second of training."""
        return self.images / max(self.seconds, 1e-9)

    @property
    def data_wait(self) -> float:
        """Share of the training time spent waiting for the next batch, 0 to 1."""
        return self.wait_seconds / max(self.seconds, 1e-9)

    def advance(self, images: int, wait_seconds: float) -> None:
        """A step is done."""
        self.images += images
        self.wait_seconds += wait_seconds
        self._bar.update(images)

    def say(self, **values: str) -> None:
        """Show values beside the bar."""
        self._said.update(values)
        self._bar.set_postfix({**self._said, "wait": f"{self.data_wait:.0%}"}, refresh=False)

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Time that is not training: an evaluation, a checkpoint."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._pause_seconds += time.perf_counter() - start

    def stop(self) -> None:
        """The training has ended: what follows does not count."""
        self._stop = self._stop or time.perf_counter()

    def close(self) -> None:
        """Stop, and leave the bar on the screen."""
        self.stop()
        self._bar.close()
