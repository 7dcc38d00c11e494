"""Damaged files of runs, packs, unfinished work, image folders: the same result, or one line that says what is wrong.

A result that differs counts as wrong unless the command has said that something is damaged.
"""

from __future__ import annotations

import random
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

from stress.case import Case, one_line_error, wait
from stress.compare import difference
from stress.failure import Failure
from stress.file_events import Moment
from stress.scenarios import SCENARIOS, Scenario

SAID = re.compile(r"damaged|skipped|cannot be read|not readable|left out", re.IGNORECASE)
MOST_BYTES = 4096  # overwritten or cut in one place
BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}


def run(case: Case) -> None:
    """One case.

    Raises:
        Failure: the promise was not kept.
    """
    case.draw.choice(TARGETS)(case)


def unfinished_run(case: Case) -> None:
    """A run that was killed, or is finished, is resumed."""
    name = case.draw.choice(("pretrain v1", "pretrain v2 in this process", "pretrain v3", "pretrain memory bank"))
    _unfinished(case, BY_NAME[name], "run", compared="backbone.safetensors")


def unfinished_pack(case: Case) -> None:
    """A pack that was interrupted goes on."""
    _unfinished(case, BY_NAME[case.draw.choice(("pack", "pack raw"))], "new.pack.partial")


def unfinished_features(case: Case) -> None:
    """Features that were interrupted go on."""
    _unfinished(case, BY_NAME[case.draw.choice(("embed", "embed pt"))], ".parts")


def trained_run(case: Case) -> None:
    """Features, figures and exports of a run."""
    name = case.draw.choice(("embed", "evaluate", "export"))
    _of_inputs(case, BY_NAME[name], "run")


def pack_to_read(case: Case) -> None:
    """Training from a pack."""
    _of_inputs(case, BY_NAME["pretrain from a pack"], "images.pack")


def image_folder(case: Case) -> None:
    """Images themselves: what is readable counts, so any result will do that is not an error of more than a line."""
    name = case.draw.choice(("pretrain v2 without labels", "pretrain v1", "embed", "pack"))
    _of_inputs(case, BY_NAME[name], "plain" if "plain" in BY_NAME[name].command else "labelled", any_result=True)


def foreign_checkpoint(case: Case) -> None:
    """A checkpoint to import."""
    _of_inputs(case, BY_NAME["import"], "foreign.pth", any_result=True)


TARGETS: tuple[Callable[[Case], None], ...] = (
    unfinished_run, unfinished_run, unfinished_run, unfinished_pack, unfinished_features,
    trained_run, trained_run, pack_to_read, pack_to_read, image_folder, foreign_checkpoint,
)  # fmt: skip


def _unfinished(case: Case, scenario: Scenario, where: str, *, compared: str = "") -> None:
    """Kill the scenario, damage what lies at `where`, call it again."""
    reference = case.place.reference(scenario)
    process = case.start(scenario, moment=Moment(case.draw.randint(1, reference.changes + 3)))
    if wait(process, scenario.limit) not in (0, -signal.SIGKILL):
        raise Failure(f"exit code {process.code} before anything was damaged", process.said)
    places = [path for path in case.folder.iterdir() if path.name.endswith(where)]
    files = [file for place in places for file in sorted(place.rglob("*")) if file.is_file()]
    files = [file for file in files if "tfevents" not in file.name and file.name != ".lock"]
    if files:
        damage(case, files)
    process = case.start(scenario)
    _judge(case, scenario, process, compared=compared)


def _of_inputs(case: Case, scenario: Scenario, name: str, *, any_result: bool = False) -> None:
    """Damage a copy of an input and call the scenario with that."""
    copy, original = case.folder / "data" / name, case.place.data / name
    case.place.reference(scenario)
    copy.parent.mkdir()
    for other in case.place.data.iterdir():
        if other.name != name:
            (copy.parent / other.name).symlink_to(other)
    shutil.copytree(original, copy) if original.is_dir() else shutil.copy(original, copy)
    files = [file for file in sorted(copy.rglob("*")) if file.is_file() and "tfevents" not in file.name]
    damage(case, files or [copy])
    process = case.call(scenario.argv(copy.parent, case.folder))
    _judge(case, scenario, process, any_result=any_result)


def _judge(case: Case, scenario: Scenario, process, *, compared: str = "", any_result: bool = False) -> None:
    wait(process, scenario.limit)
    if process.code != 0:
        one_line_error(process)
    elif "Traceback" in process.said:
        raise Failure("a traceback, though all ended well", process.said)
    elif not any_result and not SAID.search(process.said):
        if compared:
            reference = case.place.reference(scenario)
            places = (folder / scenario.output / compared for folder in (reference.folder, case.folder))
            if other := difference(*places):
                raise Failure(f"a wrong result without a word: {other}", process.said)
        else:
            _compare(case, scenario, process.said)
    case.check_left()


def _compare(case: Case, scenario: Scenario, said: str) -> None:
    shutil.rmtree(case.folder / "data", ignore_errors=True)
    try:
        case.compare(scenario, said, ignore=r"config\.yaml$|images\.npz$")  # they name and list the damaged copy
    except Failure as failure:
        raise Failure(f"a wrong result without a word: {failure}", said) from failure


def damage(case: Case, files: list[Path]) -> None:
    """Do something to one of the files, seldom to two."""
    for _ in range(case.draw.choice((1, 1, 1, 2))):
        file = case.draw.choice(files)
        how = case.draw.choice(WAYS)
        if file.is_file():
            case.note(f"{how.__name__} {file.relative_to(case.folder)} of {file.stat().st_size} bytes")
            how(case.draw, file)


def cut(draw: random.Random, file: Path) -> None:
    """Keep a part from the start."""
    _change(file, lambda content: content[: draw.randint(0, len(content))])


def flip(draw: random.Random, file: Path) -> None:
    """Turn one bit."""

    def flipped(content: bytearray) -> bytearray:
        if content:
            content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        return content

    _change(file, flipped)


def overwrite(draw: random.Random, file: Path) -> None:
    """Replace a part by zeros or random bytes."""

    def overwritten(content: bytearray) -> bytearray:
        first = draw.randint(0, len(content))
        count = min(draw.randint(1, MOST_BYTES), len(content) - first)
        content[first : first + count] = draw.choice((bytes(count), draw.randbytes(count)))
        return content

    _change(file, overwritten)


def extend(draw: random.Random, file: Path) -> None:
    """Add bytes at the end."""
    _change(file, lambda content: content + draw.randbytes(draw.randint(1, MOST_BYTES)))


def empty(draw: random.Random, file: Path) -> None:
    """Leave nothing in it."""
    file.write_bytes(b"")


def remove(draw: random.Random, file: Path) -> None:
    """Take it away."""
    file.unlink()


def make_folder(draw: random.Random, file: Path) -> None:
    """Put a folder in its place."""
    file.unlink()
    file.mkdir()


def _change(file: Path, change: Callable[[bytearray], bytes | bytearray]) -> None:
    file.write_bytes(change(bytearray(file.read_bytes())))


WAYS: tuple[Callable[[random.Random, Path], None], ...] = (
    cut, cut, flip, flip, flip, overwrite, extend, empty, remove, make_folder,
)  # fmt: skip
