"""What a run says while it works: metrics.jsonl, loggers, a progress bar."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from tqdm import tqdm

from moco.training.alive import EVERY, repeated


class MetricsWriter:
    """Appends to metrics.jsonl and hands the same values to loggers; silent on ranks other than 0. A context.

    Args:
        folder: the run folder; None writes nothing.
        loggers: with Lightning's `log_metrics(values, step)` and `finalize(status)`.
    """

    def __init__(self, folder: Path | None, loggers: Sequence[Any] = ()) -> None:
        self._file = (folder / "metrics.jsonl").open("a", encoding="utf-8") if folder else None
        self._loggers = loggers

    def write(self, step: int, values: dict[str, float]) -> None:
        """One line {"step": ..., name: value, ...}."""
        if self._file is None:
            return
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        for logger in self._loggers:
            with _logged(logger):
                logger.log_metrics(values, step)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if self._file is not None:
            # After an error it is the error that counts, not what the disk that caused it does to the loggers.
            with contextlib.nullcontext() if kind is None else contextlib.suppress(Exception):
                self._file.close()
                for logger in self._loggers:
                    with _logged(logger):
                        logger.finalize("success" if kind is None else "failed")


@contextlib.contextmanager
def _logged(logger: object) -> Iterator[None]:
    """Inside, a file system that refuses is an OSError, whatever the logger makes of it."""
    try:
        yield
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, OSError):
            cause = cause.__cause__ or cause.__context__
        if cause is None or cause is error:
            raise
        raise OSError(cause.errno, cause.strerror or str(cause), f"the files of {type(logger).__name__}") from error


class Progress:
    """Progress bar with images/s, remaining time, loss, kNN and the share of time spent waiting for data.

    On a terminal it redraws in place; elsewhere it prints a line every few seconds; in long steps and
    pauses too. A context, which leaves the bar on the screen.

    Args:
        total: images in the whole run.
        done: images already seen (a resumed run).
        show: False on ranks other than 0 and where the caller wants silence.
    """

    def __init__(self, total: int, done: int, *, show: bool) -> None:
        interval = 0.5 if sys.stderr.isatty() else EVERY
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
        self._alive = repeated(self._bar.refresh, show=show)
        self.images = 0
        self.wait_seconds = 0.0
        self.last_pause = self._pause_seconds = 0.0
        self._start = time.perf_counter()
        self._stop: float | None = None

    def __enter__(self) -> Self:
        self._alive.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._alive.__exit__(None, None, None)
        self.stop()
        self._bar.close()

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

    def advance(self, images: int) -> None:
        """A step is done."""
        self.images += images
        self._bar.update(images)

    def say(self, **values: str) -> None:
        """Show values beside the bar."""
        self._said.update(values)
        self._bar.set_postfix({**self._said, "wait": f"{self.data_wait:.0%}"}, refresh=False)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Time that the step waits for its batch."""
        start = time.perf_counter()
        yield
        self.wait_seconds += time.perf_counter() - start

    @contextmanager
    def pause(self, what: str = "saving") -> Iterator[None]:
        """Time that is not training: an evaluation, a checkpoint. It is in `last_pause` afterwards, in seconds."""
        start = time.perf_counter()
        self._bar.set_description(what, refresh=False)
        try:
            yield
        finally:
            self._bar.set_description("", refresh=False)
            self.last_pause = time.perf_counter() - start
            self._pause_seconds += self.last_pause

    def stop(self) -> None:
        """The training has ended: what follows does not count."""
        self._stop = self._stop or time.perf_counter()
