"""The command `moco`, also as `python -m moco`. Nothing slow may be imported here at module level."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading

from moco.errors import INTERRUPTED, MocoError
from moco.streams import readers_may_leave


def run() -> int:
    """Run the command; returns its exit code: that of `moco.cli.main`, or 130 when Ctrl-C ended it."""
    with readers_may_leave():
        return _run()


def _run() -> int:
    # OpenMP threads that spin long while they wait slow a busy machine down many times over; threads that never spin
    # slow a quiet one (docs/log.md, 2026-11-24). Read when PyTorch is loaded.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # else stack frames where a node or a rank is missing
    _end_with_first_process()
    listening = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if listening:
        signal.signal(signal.SIGINT, _stop_at_once)
    from moco.cli import main
    from moco.cli.main import first_line, needs_pytorch
    from moco.training.launcher import is_first_process

    first = False
    if needs_pytorch(sys.argv[1:]):
        with contextlib.suppress(MocoError):  # of the environment, which the command says in its turn
            first = is_first_process()
        if first:
            print(first_line(sys.argv[1:]), end="", file=sys.stderr, flush=True)  # PyTorch takes seconds to load
        import torch  # noqa: F401
        from tqdm import tqdm

        tqdm.set_lock(threading.RLock())  # its own may be a semaphore with a name, which outlives a killed process
        from moco.training import stop

        stop.may_end_process = True
    if listening:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        code = main()
    except KeyboardInterrupt:
        code = INTERRUPTED
    if listening:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is done: while the interpreter ends it would be a traceback
    if code == INTERRUPTED:
        print("moco: stopped", file=sys.stderr)
    return code


def _end_with_first_process() -> None:
    """A process for a further device of a run ends with the first one, also while PyTorch is loading.

    Later `moco.training.processes` sees to it, also for runs that no command has started.
    """
    first = os.environ.get("MOCO_FIRST_PROCESS")
    if first is not None and sys.platform.startswith("linux"):
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != int(first):
            os._exit(1)


def _stop_at_once(number: int, frame: object) -> None:
    """While libraries are loaded nothing is written yet, and an exception could be lost in them."""
    with contextlib.suppress(OSError):
        os.write(2, b"moco: stopped\n")
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    raise SystemExit(run())
