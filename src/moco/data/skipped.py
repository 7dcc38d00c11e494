"""Which files were passed over because they cannot be read."""

from __future__ import annotations

import json
from pathlib import Path

from moco.atomic import write_text
from moco.errors import RunError
from moco.printable import plain_name


def damaged_were(count: int, what: str = "image") -> str:
    """`1 unreadable image was`, `3 unreadable images were`: damaged, too large or of another kind."""
    return f"{count:,} unreadable {what} was" if count == 1 else f"{count:,} unreadable {what}s were"


class SkippedFiles:
    """Collects damaged files; each counts once, however often it is met."""

    def __init__(self) -> None:
        self._reasons: dict[str, str] = {}

    @classmethod
    def read(cls, path: Path) -> SkippedFiles:
        """What an earlier part of the run noted with `write`; empty where there is no such file.

        Raises:
            RunError: it holds something else.
        """
        skipped = cls()
        if path.is_file():
            try:
                for line in path.read_text(encoding="utf-8").splitlines():
                    noted = json.loads(line)
                    skipped.add(str(noted["path"]), str(noted["reason"]))
            except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
                raise RunError(f"{path} is not the list of unreadable files that a run writes: remove it") from error
        return skipped

    def add(self, item: str, reason: str) -> None:
        """Note one file, by its name as valid Unicode; the first reason stays."""
        self._reasons.setdefault(plain_name(item), plain_name(reason))

    @property
    def count(self) -> int:
        """Different files noted so far."""
        return len(self._reasons)

    def items(self) -> list[tuple[str, str]]:
        """File and reason, sorted by file."""
        return sorted(self._reasons.items())

    def write(self, path: str | Path) -> None:
        """Write one JSON object a line with `path` and `reason`; the file is replaced whole."""
        lines = [json.dumps({"path": item, "reason": reason}) + "\n" for item, reason in self.items()]
        write_text(Path(path), "".join(lines))
