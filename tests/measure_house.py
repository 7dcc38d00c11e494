"""How large the house is and how long the two walks through it are: `python tests/measure_house.py` prints Markdown.

- Lines: of every Python file of src/moco, blank lines and comments included, by room.
- Circles: modules that import each other, through statements that run while a module loads; apart from them, those
  that close only through imports inside functions or under `if TYPE_CHECKING`.
- Walk of `config`: files of src/moco with a function that runs, between the start of the command line and the
  first loss, and that has a `Config`: it, or an object with one among its attributes, is an argument (self included) or
  another local variable.
- Walk of a batch: files of src/moco with a function that runs between the data set's fetch
  (`ViewDataset.__getitems__`) and the loss (`moco_loss`) of the second step, in which nothing is set up any more, and
  that has the batch: an image, an array or tensor of at least two dimensions, or a tuple or list of such is among its
  local variables or is what it returns. Files of functions that run there without it (schedule, clock) are listed too.

Both walks are those of a real `moco pretrain` on a folder of JPEG files in this process, without workers, and without
images kept in memory, so that a batch does come from files.
"""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]
from tests import source_rules as rules  # noqa: E402

TARGETS = {"lines": 13_500, "circles": 0, "config": 20, "batch": 12}
ROOMS = rules.PACKAGE


class Walks:
    """Profiler (`sys.setprofile`) that notes both walks in the order of their first visits.

    Attributes:
        config, batch, beside: files, relative to src/moco; `beside` of what runs between fetch and loss in all.
    """

    def __init__(self) -> None:
        from moco.config import Config

        self.config: dict[str, None] = {}
        self.batch: dict[str, None] = {}
        self.beside: dict[str, None] = {}
        self._kind, self._losses, self._fetches = Config, 0, 0

    @property
    def batch_outside_algorithm(self) -> list[str]:
        """Files that bring a batch to the algorithm."""
        return [file for file in self.batch if not file.startswith(("contrast", "encoder"))]

    def __call__(self, frame: FrameType, event: str, result: Any) -> None:
        """On `call` and `return` of each function; those of C are not ours."""
        if event not in ("call", "return"):
            return
        file, name = _place(frame), frame.f_code.co_name
        if file is not None and self._losses == 0 and self._holds_config(frame):
            self.config[file] = None
        if event == "call" and name == "__getitems__" and file == "data/loader.py":
            self._fetches += 1
        self._walk_batch(frame, event, file, result)
        if event == "return" and name == "moco_loss":
            self._losses += 1
            if self._losses == 1:
                self._look_back(frame)

    def _look_back(self, frame: FrameType | None) -> None:
        """At the first loss: the functions that have not returned yet."""
        while frame is not None:
            file = _place(frame)
            if file is not None and self._holds_config(frame):
                self.config[file] = None
            frame = frame.f_back

    def _walk_batch(self, frame: FrameType, event: str, file: str | None, result: Any) -> None:
        """What runs: a function that is called, or one of ours to which another returns."""
        if self._fetches != 2 or self._losses != 1:
            return
        running = file if event == "call" else _place(frame.f_back)
        if running is not None:
            self.beside[running] = None
        if file is not None and any(map(_is_batch, (result, *frame.f_locals.values()))):
            self.batch[file] = None

    def _holds_config(self, frame: FrameType) -> bool:
        return any(
            isinstance(value, self._kind)
            or any(isinstance(part, self._kind) for part in getattr(value, "__dict__", {}).values())
            for value in frame.f_locals.values()
            if not isinstance(value, type(sys))
        )


def _is_batch(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return any(map(_is_batch, value))
    return isinstance(value, Image.Image) or getattr(value, "ndim", 0) > 1


def _place(frame: FrameType | None) -> str | None:
    """The file of a function of ours; what runs while a module or class is being defined is none."""
    if frame is None or not frame.f_code.co_filename.startswith(str(ROOMS)) or frame.f_code.co_name == "<module>":
        return None
    return str(Path(frame.f_code.co_filename).relative_to(ROOMS))


def walks() -> Walks:
    """Both walks, of a run of two steps."""
    from moco.cli import main

    found = Walks()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()) as said:
        _images(Path(folder) / "images")
        options = "--backbone resnet18 --image-size 32 --batch-size 4 --steps 2 --dictionary-size 16 --num-neighbors 3"
        options += " --recipe v2 --held-out 0.25 --threads 1 --workers 0 --cache-gib 0"
        arguments = ["pretrain", f"{folder}/images", "--out", f"{folder}/run", *options.split()]
        before = sys.getprofile()
        sys.setprofile(found)
        try:
            code = main(arguments)
        finally:
            sys.setprofile(before)
    if code or not found.batch:
        raise SystemExit(f"the run failed: {said.getvalue()}")
    return found


def _images(folder: Path) -> None:
    generator = np.random.default_rng(0)
    for number in range(16):
        place = folder / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 256, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"{number}.jpg")


def circles() -> tuple[list[list[str]], list[list[str]]]:
    """Those of imports while modules load, and those that need imports inside functions or for types besides."""
    texts = {name: (text, is_package) for name, text, is_package in rules.modules()}
    loading = rules.circles(rules.import_graph(texts))
    return loading, [c for c in rules.circles(rules.import_graph(texts, every=True)) if c not in loading]


def lines() -> Counter[str]:
    """Lines of each room; files beside the rooms are one."""
    found: Counter[str] = Counter()
    for path in rules.files("src"):
        parts = path.relative_to(ROOMS).parts
        found[parts[0] if len(parts) > 1 else "(root)"] += len(path.read_text("utf-8").splitlines())
    return found


def longest_functions() -> Iterator[tuple[int, str]]:
    """Length and place of every function."""
    for path in rules.files("src"):
        for name, length in rules.function_lengths(path.read_text("utf-8")):
            yield length, f"{path.relative_to(ROOMS)}: {name}"


def report() -> str:
    """All measures, as Markdown."""
    size, (loading, hidden), found = lines(), circles(), walks()
    table = [
        ("lines of src/moco", sum(size.values()), TARGETS["lines"]),
        ("import circles", len(loading), TARGETS["circles"]),
        ("files that `config` passes to the first loss", len(found.config), TARGETS["config"]),
        ("files that a batch passes from file to loss", len(found.batch), TARGETS["batch"]),
        ("of them outside contrast and encoder", len(found.batch_outside_algorithm), TARGETS["batch"]),
    ]
    out = ["| measure | is | at most |", "| --- | --- | --- |"]
    out += [f"| {name} | {value:,} | {target:,} |" for name, value, target in table]
    out += ["", "| room | lines |", "| --- | --- |", *(f"| {room} | {n:,} |" for room, n in size.most_common())]
    out += ["", "`config`: " + ", ".join(found.config), "", "batch: " + ", ".join(found.batch)]
    out += ["", "beside it: " + ", ".join(file for file in found.beside if file not in found.batch)]
    out += ["", *_listed("circles while modules load", map(", ".join, loading))]
    out += _listed("circles through imports in functions or for types", map(", ".join, hidden))
    files = sorted((len(p.read_text("utf-8").splitlines()), str(p.relative_to(ROOMS))) for p in rules.files("src"))
    for title, pairs in (("longest functions", sorted(longest_functions())), ("longest files", files)):
        out += _listed(title, (f"{name} {length}" for length, name in pairs[:-6:-1]))
    return "\n".join(out)


def _listed(title: str, items: Iterable[str]) -> list[str]:
    return [f"{title}: " + ("; ".join(items) or "none"), ""]


if __name__ == "__main__":
    print(report())
