"""The command `moco`, also as `python -m moco`, and what Ctrl-C does to it from the first moment on.

Loading PyTorch takes seconds, in which an exception can be lost: raised in a callback of the import system or of the
garbage collector, caught by a library that tries something, or turned into another error. So the interrupt is raised
again until it has come through. Nothing slow may be imported here at module level.
"""

from __future__ import annotations

import os
import signal
import sys

from moco.errors import INTERRUPTED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sys import UnraisableHookArgs
    from types import FrameType

AGAIN = 0.1  # seconds after which an interrupt that has not come through is raised again


def run() -> int:
    """Run the command; returns its exit code: that of `moco.cli.main`, or 130 when Ctrl-C ended it."""
    interrupt, code = Interrupt(), INTERRUPTED
    try:
        try:
            interrupt.listen()
            from moco.cli import main

            code = main()
        except Exception:
            if not interrupt.came:
                raise
        interrupt.close()
    except KeyboardInterrupt:
        interrupt.close()
    if interrupt.came:
        code = INTERRUPTED
    if code == INTERRUPTED:
        print("moco: stopped", file=sys.stderr)
    return code


class Interrupt:
    """Raises KeyboardInterrupt at SIGINT, and again for as long as nobody is handling it, until `close`.

    Code that takes SIGINT for itself, as a run does while it trains, is left alone; so is a process that was started
    with SIGINT ignored. Where there is no interval timer (Windows) it is raised once.

    Attributes:
        came: whether it was raised.
    """

    def __init__(self) -> None:
        self.came = False
        self._closed = False

    def listen(self) -> None:
        """From now on."""
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._say_lost, sys.unraisablehook = sys.unraisablehook, self._on_lost
            signal.signal(signal.SIGINT, self._on_signal)

    def close(self) -> None:
        """The work is over: nothing is raised any more, and a further SIGINT ends the process at once."""
        self._closed = True
        if self.came:
            if hasattr(signal, "setitimer"):
                signal.setitimer(signal.ITIMER_REAL, 0)
            # An interrupt that passed through code made from text lets Python end by a signal of its own instead of
            # with our exit code; running any text takes that back.
            exec("")

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._closed:
            try:
                sys.stdout.flush()
            finally:
                os._exit(INTERRUPTED)
        self.came = True
        if hasattr(signal, "setitimer"):
            signal.signal(signal.SIGALRM, self._on_alarm)
            signal.setitimer(signal.ITIMER_REAL, AGAIN, AGAIN)
        raise KeyboardInterrupt

    def _on_alarm(self, number: int, frame: FrameType | None) -> None:
        if not self._closed and not _in_hand(sys.exception()):
            raise KeyboardInterrupt

    def _on_lost(self, lost: UnraisableHookArgs) -> None:
        if not issubclass(lost.exc_type, KeyboardInterrupt):  # that one comes again
            self._say_lost(lost)


def _in_hand(error: BaseException | None) -> bool:
    """Whether an interrupt is being handled: something is saved or closed on the way out."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None


if __name__ == "__main__":
    raise SystemExit(run())
