"""A full disk: one line, what was good stays good, and once there is room the result is the uninterrupted one's."""

from __future__ import annotations

import math
import re
import resource
from pathlib import Path

from stress.case import REFUSED, Case, files_below, one_line_error, wait
from stress.failure import Failure
from stress.scenarios import drawn
from stress.small_disk import SmallDisk

NOTHING = re.compile(r"nothing was|no checkpoint")
PATH = re.compile(r"[\w./-]+\.(?:pt|pth|safetensors|npz)\b")


def run(case: Case) -> None:
    """One case.

    Raises:
        Failure: the promise was not kept.
    """
    draw = case.draw
    scenario = drawn(draw, "pretrain", "pack", "embed", "export", "import", "ablate")
    reference = case.place.reference(scenario)
    sizes = [path.stat().st_size for path in reference.folder.rglob("*") if path.is_file()]
    small_disk = SmallDisk.possible() and draw.random() < 0.5
    most = sum(sizes) if small_disk else max(sizes)
    room = int(math.exp(draw.uniform(math.log(256), math.log(1.1 * most))))
    case.note(
        f"{scenario.name}, {room:,} bytes on the disk" if small_disk else f"{scenario.name}, files to {room:,} bytes"
    )
    if small_disk:
        case.disk = SmallDisk(case.folder, room)
        process = case.start(scenario)
    else:
        process = case.start(scenario, prepare=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (room, room)))
    wait(process, scenario.limit)
    if process.code != 0:
        one_line_error(process, ranks=scenario.ranks)
        _check_names(case.folder, process.said)
        if process.code == REFUSED and (there := files_below(case.folder)):
            raise Failure(f"exit code 2, but {', '.join(sorted(there)[:3])} was written", process.said)
    if case.disk is not None:
        case.disk.enlarge()
    case.finish(scenario)


def _check_names(folder: Path, said: str) -> None:
    """A file that is said to be good is there."""
    error = next(line for line in said.splitlines() if line.startswith("moco: error:"))
    if not re.search(r"good|untouched|kept|safe|as it was", error) or NOTHING.search(error):
        return
    for name in PATH.findall(error):
        if not (folder / name).exists():
            raise Failure(f"the message names {name}, which is not there: {error}", said)
