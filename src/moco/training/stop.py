"""Ctrl-C, SIGTERM and SIGHUP end a run at the next step boundary; Ctrl-C ends a long step, a second one any step.

Python runs a signal's handler between two of its own instructions: a backward pass of a minute is one. A thread that
the system wakes at once therefore watches how long the boundary takes.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from moco.errors import INTERRUPTED

PATIENCE = 1.2  # seconds from Ctrl-C that a step has for its end
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
GRACE = 0.4  # further ones until the process ends in the middle of an operation, where it is the command's

# Set by the command: its process may be ended. That of a Python program that uses this package may not.
may_end_process = False


class StopRequest:
    """Context in which the first SIGINT, SIGTERM or SIGHUP only sets `came`.

    Where `boundary` is not called within PATIENCE of a Ctrl-C, the step is given up: KeyboardInterrupt, as soon as
    Python has the word; in the command, if that takes longer than GRACE, `abandon` and the end of the process.

    Args:
        abandon: last deeds of a process that ends in the middle of a step, done by another thread.
        patient: False: the first signal already is KeyboardInterrupt.
        watched: whether a step is ever given up; not where other ranks would wait for this one.
    """

    def __init__(
        self, *, abandon: Callable[[], None] = lambda: None, patient: bool = True, watched: bool = True
    ) -> None:
        self.came = self._given_up = self._again = False
        self._abandon, self._patient, self._watched = abandon, patient, watched
        self._previous: dict[int, Any] = {}
        self._boundary, self._over = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) != signal.SIG_IGN:  # as nohup has SIGHUP ignored
                    self._previous[number] = signal.signal(number, self._on_signal)
            if self._watched:
                self._watch()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._boundary.set()
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if self._thread is not None:
            signal.set_wakeup_fd(self._former)
            os.write(self._sent, b"\0")
            self._thread.join()
            os.close(self._sent)
            os.close(self._received)

    def boundary(self, *, begun: bool = True) -> None:
        """The request has been met: what follows may take its time.

        Raises:
            KeyboardInterrupt: there was one, and nothing is `begun` that could be kept.
        """
        self._boundary.set()
        if self.came and not begun:
            raise KeyboardInterrupt

    def _watch(self) -> None:
        self._received, self._sent = os.pipe()
        os.set_blocking(self._sent, False)
        self._former = signal.set_wakeup_fd(self._sent, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._wait, name="moco-stop", daemon=True)
        self._thread.start()

    def _wait(self) -> None:
        """The system writes each signal's number into the pipe when it comes."""
        while not self._over.is_set():
            if signal.SIGINT in os.read(self._received, 64) and not self._boundary.wait(PATIENCE):
                self._give_up()
                return

    def _give_up(self) -> None:
        self._given_up = True
        if hasattr(signal, "pthread_kill"):  # wakes the main thread where it waits for the system
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        else:
            _thread.interrupt_main()
        if not self._over.wait(GRACE) and may_end_process:
            with contextlib.suppress(Exception):
                self._abandon()
            with contextlib.suppress(OSError):
                os.write(2, b"\nmoco: stopped\n")
            os._exit(INTERRUPTED)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.came = True
        if self._given_up or self._again or not self._patient:
            raise KeyboardInterrupt
        self._again = True
