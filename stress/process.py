"""Commands in sessions of their own: forked from this process, which has loaded PyTorch once, or started anew.

A forked command goes through `moco.__main__.run` as any other; what it saves is the four seconds of loading. It can
also end itself at an exact moment: before its n-th change of a file.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import importlib
import importlib.util
import multiprocessing.process
import os
import pkgutil
import select
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from stress.file_events import Moment, watch_files

SOURCES = str(Path(importlib.util.find_spec("moco").origin).parents[1])  # type: ignore[union-attr,arg-type]
MAIN_PROCESS: Any = type(multiprocessing.process.current_process())
OUTPUT_KEPT = 20_000  # bytes


@dataclasses.dataclass
class Process:
    """A command at work. `pid` is also its session's; `said` is what it has printed so far."""

    pid: int
    argv: Sequence[str]
    output: int
    handle: int
    began: float
    said: str = ""
    code: int | None = None
    ended: float = 0.0

    def poll(self, seconds: float = 0.0) -> int | None:
        """The exit code, negative for a signal, once it has ended; waits for it at most so long."""
        latest = time.monotonic() + seconds
        while self.code is None:
            waited = [descriptor for descriptor in (self.output, self.handle) if descriptor >= 0]
            ready, _, _ = select.select(waited, [], [], max(0.0, latest - time.monotonic()))
            self._read()
            if self.handle in ready:
                self._reap()
            elif time.monotonic() >= latest:
                break
        return self.code

    def send(self, number: int, *, group: bool = False) -> None:
        """Send a signal to the first process, or to all of its process group."""
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if group else os.kill)(self.pid, number)

    def members(self) -> list[int]:
        """Processes of the session that are not mere zombies."""
        return [pid for pid, session in sessions() if session == self.pid and (pid != self.pid or self.code is None)]

    def destroy(self) -> None:
        """End whatever is left of it."""
        for pid in self.members():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.poll(10.0)
        self.close()

    def close(self) -> None:
        """Let go of the pipe and the handle."""
        for descriptor in (self.output, self.handle):
            if descriptor >= 0:
                os.close(descriptor)
        self.output = self.handle = -1

    def _read(self) -> None:
        while self.output >= 0 and select.select([self.output], [], [], 0)[0]:
            text = os.read(self.output, 65536)
            if not text:
                os.close(self.output)
                self.output = -1
                return
            self.said = (self.said + text.decode("utf-8", "backslashreplace"))[-OUTPUT_KEPT:]

    def _reap(self) -> None:
        _, status = os.waitpid(self.pid, 0)
        self.code, self.ended = os.waitstatus_to_exitcode(status), time.monotonic()
        self._read()


def sessions() -> list[tuple[int, int]]:
    """Process and session id of all processes but zombies."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError, ValueError):
                state, _, _, session = Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()[:4]
                if state != "Z":
                    found.append((int(entry), int(session)))
    return found


def command_line(pid: int) -> str:
    """What a process was started as, shortened."""
    try:
        return (
            Path("/proc", str(pid), "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:80].strip()
        )
    except OSError:
        return "a process that has just ended"


def start(
    argv: Sequence[str],
    folder: Path,
    *,
    anew: bool = False,
    moment: Moment | None = None,
    count_to: Path | None = None,
    settings: Mapping[str, Any] | None = None,
    prepare: Callable[[], None] = lambda: None,
) -> Process:
    """Start `moco` with these arguments in `folder`.

    Args:
        argv: arguments after `moco`.
        folder: its working directory; its temporary files go to FOLDER/tmp.
        anew: start `python -m moco` instead of forking.
        moment: where a forked command kills itself.
        count_to: file into which a forked command writes how often it changed a file.
        settings: values of names in modules or classes, such as moco.data.packing.CHECKPOINT, in a forked command.
        prepare: called in the process before the command, to set limits.
    """
    sys.stdout.flush()
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            _become(folder, write, prepare)
            if anew:
                os.execv(sys.executable, [sys.executable, "-m", "moco", *argv])
            _forked(argv, folder, moment, count_to, settings or {})
        except BaseException as error:  # never back into the caller's frames
            os.write(2, f"stress: the command could not be started: {error!r}\n".encode())
        finally:
            os._exit(99)
    os.close(write)
    return Process(pid, argv, read, os.pidfd_open(pid), time.monotonic())


def _become(folder: Path, output: int, prepare: Callable[[], None]) -> None:
    os.setsid()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.closerange(3, 1024)
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # it ends with this suite
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    (folder / "tmp").mkdir(exist_ok=True)
    os.chdir(folder)
    os.environ |= {"TMPDIR": str(folder / "tmp"), "PYTHONPATH": SOURCES, "OMP_NUM_THREADS": "1"}
    prepare()


def _forked(
    argv: Sequence[str], folder: Path, moment: Moment | None, count_to: Path | None, settings: Mapping[str, Any]
) -> NoReturn:
    import tempfile
    import threading

    tempfile.tempdir = None
    # It is nobody's worker: those of a pool may start no processes.
    multiprocessing.process._current_process = MAIN_PROCESS()  # type: ignore[attr-defined]
    multiprocessing.process._parent_process = None  # type: ignore[attr-defined]
    multiprocessing.process._children = set()  # type: ignore[attr-defined]
    sys.stdin = sys.__stdin__ = open(0, closefd=False)  # type: ignore[misc]
    sys.stdout = sys.__stdout__ = open(1, "w", closefd=False)  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = open(2, "w", 1, errors="backslashreplace", closefd=False)  # type: ignore[misc]
    for name, value in settings.items():
        owner, _, variable = name.rpartition(".")
        setattr(pkgutil.resolve_name(owner), variable, value)
    sys.argv = ["moco", *argv]
    command = importlib.import_module("moco.__main__")
    sys.modules["__main__"] = command  # what further ranks and spawned processes are started from
    counted = watch_files(folder, moment)
    try:
        code = command.run()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    _end_of_interpreter()
    if count_to is not None:
        count_to.write_text(str(counted()))
    sys.stdout.flush()
    os._exit(code)


def _end_of_interpreter() -> None:
    """What the end of an interpreter does for the libraries."""
    import atexit
    import multiprocessing.util

    multiprocessing.util._exit_function()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
