"""Standard output and standard error of the command, whose readers may go away before it has said all."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any


class _Stream:
    """A text stream; once nobody reads it any more, as after `| head`, what is written goes nowhere."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write it, or drop it."""
        written: int = self._unbroken(lambda: self._stream.write(text), len(text))
        return written

    def flush(self) -> None:
        """Write what waits, or drop it."""
        self._unbroken(self._stream.flush, None)

    def _unbroken(self, action: Callable[[], Any], otherwise: Any) -> Any:
        try:
            return action()
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())  # also what still waits in its buffer
            os.close(nowhere)
            return otherwise


@contextlib.contextmanager
def readers_may_leave() -> Iterator[None]:
    """Inside, and for what waits at its end, a reader that leaves is no error: a run goes on without a word."""
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (stream and _Stream(stream) for stream in streams)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                with contextlib.suppress(OSError, ValueError):  # a full disk: Python says it at its end
                    stream.flush()
        sys.stdout, sys.stderr = streams
