"""Work in parts: a call that ends after so many minutes, and goes on in the next one."""

from __future__ import annotations

import time

_EARLY = 0.1  # share of the time within which a test may begin: how long it takes is not known before


class Limit:
    """How long one call may work. It always gets something done: an iteration, or a test.

    Args:
        minutes: from now on; None for no limit.
    """

    def __init__(self, minutes: float | None = None) -> None:
        self._seconds = float("inf") if minutes is None else 60 * minutes
        self._start, self._worked = time.monotonic(), False

    def note_work(self) -> None:
        """An iteration or a test is done."""
        self._worked = True

    def is_up(self) -> bool:
        """Whether no further iteration may begin."""
        return self._worked and time.monotonic() - self._start >= self._seconds

    def is_late_for_test(self) -> bool:
        """Whether a test has to wait for the next call."""
        return self._worked and time.monotonic() - self._start >= _EARLY * self._seconds
