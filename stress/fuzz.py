"""Odd options, random bytes, configurations of wrong types: it works, or exit code 2, one line, nothing written."""

from __future__ import annotations

import dataclasses
import inspect
import pkgutil
import random
import resource
import signal
import time
from collections.abc import Callable
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml

from moco.cli.functions import COMMANDS, PYTHON_ONLY
from moco.config import Config
from stress.case import REFUSED, Case, files_below, last_line, one_line_error
from stress.damage import cut, extend, flip, overwrite
from stress.failure import Failure
from stress.process import Process
from stress.scenarios import TINY

SECONDS, TO_END = 20.0, 10.0  # then it is stopped by Ctrl-C, as what is merely long may be; and must end
MEMORY = 12 << 30  # bytes of addresses
PROCESSES = 100  # more than any command here needs
NUMBERS = "-1 0 1 2 3 7 64 1000 100000 1e11 2147483648 9223372036854775808 18446744073709551616 1e30 0.5 1e-300 1e308 "
NUMBERS += "-0.0 nan inf -inf 1_0 0x10 \uff11\uff12"  # the last: digits of full width
WORDS = "x null true [] [1 {} [0.5,0.2] 1,2 ~ %s ../.. \u00e9 auto none -- * timm/ os.path:join 0.5,0.5,0.5/0.2,0.2,0.2"
TEXTS = ("", " ", "a\nb", "\x1b[31mred", "a" * 5000, *WORDS.split())
BASE = {
    "pretrain": f"pretrain {{data}}/labelled --out new {TINY} --recipe v2 --dictionary-size 16 --held-out 0.25 "
    "--workers 0 --steps 2",
    "pack": "pack {data}/labelled --out new --short-side 16",
    "embed": "embed {data}/run {data}/labelled --out new.npz --batch-size 8 --workers 1",
    "evaluate": "evaluate {data}/run --train {data}/labelled --num-neighbors 3 --baselines none",
    "export": "export {data}/run --out new",
    "neighbours": "neighbours {data}/run {data}/labelled --out new.png",
    "import": "import {data}/foreign.pth --out new --image-size 32",
}


def run(case: Case) -> None:
    """One case.

    Raises:
        Failure: the promise was not kept.
    """
    case.draw.choice((options, options, options, configuration, bytes_to_import))(case)


def options(case: Case) -> None:
    """One to three options of a command get odd values."""
    draw = case.draw
    command = draw.choice(("pretrain", "pretrain", "pretrain", *BASE))
    argv = [word.format(data=case.place.data) for word in BASE[command].split()]
    kinds = _fields() if command == "pretrain" else _parameters(command)
    for name in draw.sample(sorted(kinds), draw.choice((1, 1, 2, 3))):
        value = _value(draw, kinds[name])
        flag = f"--{name.replace('_', '-')}"
        argv += [flag] if value is None else [f"{flag}={value}"]
    _judge(case, _called(case, argv))


def configuration(case: Case) -> None:
    """--config with values of wrong types, keys of nobody, or no YAML at all."""
    draw, file = case.draw, case.folder / "odd.yaml"
    content: dict[Any, Any] = {"recipe": "v2", "steps": 2}
    for _ in range(draw.randint(1, 4)):
        name = draw.choice((*_fields(), "data", "out", "nobody", 7))
        content[name] = draw.choice(
            (None, True, -1, 1.5, 10**30, float("nan"), "x", [], [1, "a"], {"a": [1]}, "2 0", b"x")
        )
    file.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    if draw.random() < 0.5:
        draw.choice((cut, flip, overwrite, extend))(draw, file)
    argv = [word.format(data=case.place.data) for word in BASE["pretrain"].split()]
    _judge(case, _called(case, [*argv, f"--config={file.name}"]))


def bytes_to_import(case: Case) -> None:
    """Random bytes, or a checkpoint that was changed, under a usual name."""
    draw = case.draw
    file = case.folder / draw.choice(("odd.pth", "odd.pt", "odd.bin", "odd.safetensors", "odd.pth.tar", "odd"))
    if draw.random() < 0.5:
        heads = (
            b"",
            b"PK\x03\x04",
            b"\x80\x02",
            b"\x80\x04\x95",
            b"\x93NUMPY",
            b"{",
            draw.randbytes(2) + bytes(6) + b"{",
        )
        file.write_bytes(draw.choice(heads) + draw.randbytes(draw.choice((0, 1, 8, 100, 5000))))
    else:
        names = ("run/backbone.safetensors", "run/checkpoints/last.pt", "images.npz", "run/config.yaml")
        file.write_bytes((case.place.data / draw.choice(names)).read_bytes())
        for _ in range(draw.randint(1, 3)):
            draw.choice((cut, flip, overwrite, extend))(draw, file)
    case.note(f"{file.name} of {file.stat().st_size} bytes")
    _judge(case, _called(case, ["import", file.name, "--out", "new"]))


def _called(case: Case, argv: list[str]) -> Process:
    """The command at its end; one that is merely long is stopped by Ctrl-C."""
    case.note(" ".join(word if len(word) < 200 else word[:200] + "..." for word in argv[:2] + argv[-4:]).encode(
        "unicode_escape").decode())  # fmt: skip
    process = case.call(argv, prepare=lambda: resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY)))
    latest = time.monotonic() + SECONDS
    while process.poll(0.2) is None and time.monotonic() < latest:
        if (count := len(process.members())) > PROCESSES:
            raise Failure(f"{count} processes were started", process.said)
    if process.code is None:
        process.send(signal.SIGINT, group=True)
        if process.poll(TO_END) is None:
            raise Failure(f"Ctrl-C did not end it in {TO_END:.0f} s", process.said)
    return process


def _judge(case: Case, process: Process) -> None:
    if "Traceback" in process.said:
        raise Failure(f"a traceback: {last_line(process.said)}", process.said)
    if process.code not in (0, 130):
        one_line_error(process)
        new = [name for name in files_below(case.folder) if not name.startswith("odd")]
        if new and process.code == REFUSED:
            raise Failure(f"exit code 2, but {', '.join(sorted(new)[:3])} was written", process.said)
    if "\x1b[31m" in process.said:
        raise Failure("a terminal's control characters were printed as they came", process.said)
    case.check_left()


def _fields() -> dict[str, Any]:
    """Options of pretrain and their types."""
    hints = get_type_hints(Config)
    return {field.name: hints[field.name] for field in dataclasses.fields(Config)}


def _parameters(command: str) -> dict[str, str]:
    """Options of another command and their types as written."""
    parameters = inspect.signature(pkgutil.resolve_name(COMMANDS[command])).parameters.values()
    found = {p.name: str(p.annotation) for p in parameters if p.kind is p.KEYWORD_ONLY}
    return {name: kind for name, kind in found.items() if name not in {*PYTHON_ONLY, "out", "download", "baselines"}}


def _value(draw: random.Random, kind: Any) -> str | None:
    """A value for an option of this type, None for a flag; in one of four cases one of another type."""
    text = str(kind)
    if kind is bool or text == "bool":
        return None
    choices = [choice for part in (kind, *get_args(kind)) if get_origin(part) is Literal for choice in get_args(part)]
    makers: list[Callable[[], str]] = [lambda: draw.choice(TEXTS), lambda: draw.choice(NUMBERS.split())]
    if choices:
        makers += [lambda: str(draw.choice(choices))] * 4
    elif "int" in text or "float" in text:
        makers += [lambda: draw.choice(NUMBERS.split())] * 4
    return draw.choice(makers)()
