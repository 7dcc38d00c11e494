"""One case: what was drawn for it, where it works, and the checks that all kinds share."""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import random
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stress import inputs
from stress.compare import difference, differing
from stress.failure import Failure
from stress.leftovers import Leftovers
from stress.process import Process, command_line, start
from stress.scenarios import OFTEN, Scenario
from stress.small_disk import SmallDisk

PATIENCE, AT_LEISURE = 2.0, 10.0  # seconds until nothing may be left of a process that was killed; that ended itself
REFUSED, BROKEN_OFF = 2, 1  # exit codes: nothing was written; something was, and it goes on from there
DONE_ALREADY = re.compile(r"is there already|holds something already")


@dataclasses.dataclass(frozen=True)
class Reference:
    """An uninterrupted run of a scenario: where its results are, what it printed, how long it took, how often it
    changed a file.
    """

    folder: Path
    said: str
    seconds: float
    changes: int


class Workplace:
    """A folder for the inputs, the uninterrupted references and the cases; processes side by side share it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.data = folder, folder / "data"
        self._references: dict[str, Reference] = {}
        self.data.mkdir(parents=True)
        (folder / "uninterrupted").mkdir()
        inputs.make_images(self.data)
        inputs.make_foreign(self.data)
        for command in inputs.COMMANDS:
            ended(start(command.split(), self.data), 120.0)
        shutil.rmtree(self.data / "tmp")

    def reference(self, scenario: Scenario) -> Reference:
        """The uninterrupted result, made when it is first needed."""
        if scenario.name not in self._references:
            # Short names: a process's sockets lie in its temporary folder, and their paths may have 107 bytes.
            folder = self.folder / "uninterrupted" / hashlib.sha256(scenario.name.encode()).hexdigest()[:8]
            known = folder.with_suffix(".json")
            with folder.with_suffix(".lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not known.is_file():
                    self._make(scenario, folder, known)
            said, seconds, changes = json.loads(known.read_text())
            self._references[scenario.name] = Reference(folder, said, seconds, changes)
        return self._references[scenario.name]

    def _make(self, scenario: Scenario, folder: Path, known: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)  # of an attempt that failed
        folder.mkdir()
        process = start(scenario.argv(self.data, folder), folder, count_to=folder / "changes", settings=OFTEN)
        ended(process, scenario.limit)
        changes = int((folder / "changes").read_text())
        known.write_text(json.dumps([process.said, process.ended - process.began, changes]))


class Case:
    """A case, drawn from seed, kind and number alone.

    Attributes:
        draw: generator of all that is random in it.
        folder: its working directory, empty at first.
        processes: all that it has started.
    """

    def __init__(self, place: Workplace, seed: int, kind: str, number: int) -> None:
        self.place, self.name = place, f"{kind}:{number}"
        self.draw = random.Random(f"{seed} {kind} {number}")
        self.folder = place.folder / "cases" / f"{kind}-{number}"
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.processes: list[Process] = []
        self.notes: list[str] = []
        self.left = Leftovers(self.folder / "tmp")
        self.disk: SmallDisk | None = None
        self.settings = OFTEN

    def start(self, scenario: Scenario, **options: Any) -> Process:
        """Start the scenario's next call in the folder of the case."""
        return self.call(scenario.argv(self.place.data, self.folder), **options)

    def call(self, argv: list[str], **options: Any) -> Process:
        """Start a command in the folder of the case."""
        process = start(argv, self.folder, settings=self.settings, **options)
        self.processes.append(process)
        return process

    def note(self, text: str) -> None:
        """Keep a word on what happened, for the report of a failure."""
        self.notes.append(text)

    def finish(self, scenario: Scenario) -> None:
        """Call the scenario until it is done and compare with the uninterrupted result.

        Raises:
            Failure: it does not end well, other results, or something is left behind.
        """
        process = self.start(scenario)
        code = wait(process, scenario.limit)
        if code != 0 and not (code == REFUSED and DONE_ALREADY.search(process.said)):
            raise Failure(f"the last call ended with exit code {code}: {last_line(process.said)}", process.said)
        self.compare(scenario, process.said)
        self.check_left()

    def compare(self, scenario: Scenario, said: str, *, ignore: str = "") -> None:
        """Raise Failure where the results are not those of the uninterrupted call."""
        reference = self.place.reference(scenario)
        if scenario.output:
            other = difference(reference.folder / scenario.output, self.folder / scenario.output, ignore=ignore)
            other = other or self._beside(reference.folder)
        else:
            other = next(differing(printed(reference.said), printed(said)), None)
        if other is not None:
            raise Failure(f"not as if uninterrupted: {other}", said)

    def _beside(self, folder: Path) -> str | None:
        """Files that the uninterrupted call did not leave beside its output, or that are lacking."""
        usual = {"tmp", "changes"}
        there, expected = ({path.name for path in place.iterdir()} - usual for place in (self.folder, folder))
        if there != expected:
            return f"beside the output: {', '.join(sorted(there ^ expected))} in one of both only"
        return None

    def check_left(self) -> None:
        """Raise Failure where a process, shared memory or a temporary file is left."""
        for number, process in enumerate(self.processes, 1):
            assert process.code is not None
            wait_until(
                lambda process=process: not process.members(),
                process.ended + (PATIENCE if process.code < 0 else AT_LEISURE),
            )
            if members := process.members():
                names = ", ".join(sorted({command_line(pid) for pid in members}))
                which = f"call {number}, exit code {process.code}, ended {time.monotonic() - process.ended:.1f} s ago"
                raise Failure(f"{len(members)} processes left of {which}: {names}", process.said)
        # Shared memory of another program on its way between two of its processes is nobody's for a moment.
        wait_until(lambda: not self.left.found(), time.monotonic() + PATIENCE)
        if left := self.left.found():
            raise Failure(f"left behind: {', '.join(left[:3])}")

    def close(self, *, keep: bool) -> None:
        """End what may still be at work and remove the folder."""
        for process in self.processes:
            process.destroy()
        self.left.remove()
        if self.disk is not None:
            self.disk.close()
        if not keep:
            shutil.rmtree(self.folder, ignore_errors=True)


def wait(process: Process, limit: float) -> int:
    """The exit code of a process.

    Raises:
        Failure: it does not end in so many seconds.
    """
    code = process.poll(limit)
    if code is None:
        raise Failure(f"still at work after {limit:.0f} s", process.said)
    return code


def ended(process: Process, limit: float) -> None:
    """Wait for a process of the suite's own that must end well."""
    code = process.poll(limit)
    process.destroy()
    if code != 0:
        raise RuntimeError(
            f"moco {' '.join(process.argv)} ended with {code} where nothing was attacked: {process.said}"
        )


def wait_until(true: Callable[[], bool], latest: float) -> None:
    """Wait until it is true, or that moment of time.monotonic() has come."""
    while not true() and time.monotonic() < latest:
        time.sleep(0.02)


def last_line(said: str) -> str:
    """The last line that was printed, shortened."""
    lines = said.strip().splitlines() or ["nothing printed"]
    return lines[-1][:200]


def printed(said: str) -> Any:
    """The JSON object in what was printed."""
    try:
        return json.loads(said[said.index("{") : said.rindex("}") + 1])
    except ValueError:
        return said


def files_below(folder: Path) -> dict[str, int]:
    """Files and folders in a case's folder with their sizes; temporary ones and folders' own sizes left out."""
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    return {
        name: path.lstat().st_size * path.is_file()
        for name, path in found.items()
        if name.partition("/")[0] != "tmp" and path.name != ".lock"
    }


def one_line_error(process: Process, *, ranks: int = 1) -> None:
    """Raise Failure unless a command that failed said why in one line a rank, the last, with exit code 2 or 1."""
    said = process.said
    errors = [line for line in said.splitlines() if line.startswith("moco: error:")]
    if "Traceback" in said:
        raise Failure(f"a traceback: {last_line(said)}", said)
    if process.code not in (BROKEN_OFF, REFUSED):
        raise Failure(f"exit code {process.code}: {last_line(said)}", said)
    if not 1 <= len(errors) <= ranks or not said.rstrip("\n").endswith(errors[-1]):
        raise Failure(f"expected one line of error at the end, found {len(errors)}: {last_line(said)}", said)
