"""Which files were passed over because they cannot be read."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from moco.atomic import write_bytes
from moco.errors import RunError
from moco.printable import plain_name


def damaged_were(count: int, what: str = "image") -> str:
    """`1 unreadable image was`, `3 unreadable images were`: damaged, too large or of another kind."""
    return f"{count:,} unreadable {what} was" if count == 1 else f"{count:,} unreadable {what}s were"


class SkippedFiles:
    """Collects damaged files; each counts once, however often it is met.

    Args:
        journal: file to which each is added as it is met, so that a kill loses none; None for none.
    """

    def __init__(self, journal: Path | None = None) -> None:
        self._reasons: dict[str, str] = {}
        self._journal = journal

    @classmethod
    def of_run(cls, folder: Path, rank: int = 0) -> SkippedFiles:
        """Those that a rank of a run has met, with its journal: skipped.jsonl, of further ranks skipped-1.jsonl, ..."""
        journal = folder / ("skipped.jsonl" if rank == 0 else f"skipped-{rank}.jsonl")
        skipped = cls.read(journal)
        if journal.is_file():
            skipped.write(journal)  # without a line that a kill has cut short
        skipped._journal = journal
        return skipped

    @classmethod
    def read(cls, path: Path) -> SkippedFiles:
        """What an earlier part of the run noted; nothing where there is no file. A last line that a kill has cut short
        is left out.

        Raises:
            RunError: it holds something else.
        """
        skipped = cls()
        try:
            content = path.read_bytes() if path.is_file() else b""
            for line in content[: content.rfind(b"\n") + 1].splitlines():
                noted = json.loads(line)
                skipped.add(str(noted["path"]), str(noted["reason"]))
        except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
            raise RunError(f"{path} is not the list of unreadable files that a run writes: remove it") from error
        return skipped

    def add(self, item: str, reason: str) -> None:
        """Note one file, by its name as valid Unicode; the first reason stays."""
        item, reason = plain_name(item), plain_name(reason)
        if item in self._reasons:
            return
        self._reasons[item] = reason
        if self._journal is not None:
            with contextlib.suppress(OSError), self._journal.open("ab") as file:  # `gather` says if the disk is full
                file.write(_line(item, reason))

    @property
    def count(self) -> int:
        """Different files noted so far."""
        return len(self._reasons)

    def items(self) -> list[tuple[str, str]]:
        """File and reason, sorted by file."""
        return sorted(self._reasons.items())

    def write(self, path: str | Path) -> None:
        """Write one JSON object a line with `path` and `reason`; the file is replaced whole."""
        write_bytes(Path(path), b"".join(_line(item, reason) for item, reason in self.items()))

    def gather(self) -> None:
        """Put what all ranks have met into the first one's journal, sorted; to be called by it, after training."""
        assert self._journal is not None
        others = list(self._journal.parent.glob("skipped-*.jsonl"))
        for other in others:
            for item, reason in self.read(other).items():
                self.add(item, reason)
        if self.count:
            self.write(self._journal)
        for other in others:
            other.unlink()


def _line(item: str, reason: str) -> bytes:
    return json.dumps({"path": item, "reason": reason}).encode("ascii") + b"\n"
