"""A figure on the screen every few seconds, whatever a run is busy with."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

EVERY = 8.0  # seconds between two signs of life


@contextmanager
def repeated(action: Callable[[], object], *, show: bool = True) -> Iterator[None]:
    """Inside, a thread of its own calls `action` every few seconds; without `show` it does not."""
    if not show:
        yield
        return
    ended = threading.Event()

    def repeat() -> None:
        while not ended.wait(EVERY):
            action()

    thread = threading.Thread(target=repeat, name="moco-alive", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def doing(what: str, *, show: bool) -> Iterator[None]:
    """Inside, a line says every few seconds what is being done and for how long already."""
    began = time.monotonic()

    def say() -> None:
        print(f"{what}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)

    with repeated(say, show=show):
        yield
