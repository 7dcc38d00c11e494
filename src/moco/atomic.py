"""Files that appear whole or not at all, with the permissions of any new file."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from moco.errors import MocoError, RunError
from moco.printable import plain_data

_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
_PYTORCH = ("inline_container", "PytorchStreamWriter", "iostream")  # in what its writer says when a disk is full


@contextlib.contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A path to write to; when the block ends, what lies there is safe on the disk and takes the place of `path`.

    Until then, and after any error, `path` is as it was.

    Raises:
        RunError: the file system refused; the message names the file, the reason and what is still there.
    """
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")  # the suffix tells some writers the format
    with written(path):
        try:
            yield partial
            with partial.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(partial, path)
        except BaseException:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def written(path: Path) -> Iterator[None]:
    """Around what writes `path`: that the file system refuses is said in one line.

    Raises:
        RunError: it did.
    """
    was_there = path.exists()
    try:
        yield
    except MocoError:
        raise
    except (OSError, RuntimeError) as error:
        left = "the earlier one is as it was" if was_there else "nothing was written there"
        if isinstance(error, OSError):
            raise RunError(f"cannot write {path}: {reason(error)}; {left}") from error
        if not is_of_the_disk(error):
            raise
        raise RunError(f"cannot write {path}: the disk took no more; {left}") from error


def is_of_the_disk(error: BaseException | None) -> bool:
    """Whether an error, or what it came from, is that the file system takes no more: full, read-only or broken."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _OF_THE_DISK:
            return True
        if isinstance(error, RuntimeError) and any(word in str(error) for word in _PYTORCH):
            return True
        error = error.__cause__
    return False


def reason(error: BaseException) -> str:
    """Why a file cannot be read or written, on one line without the path."""
    strerror = getattr(error, "strerror", None)
    return strerror or " ".join(str(error).split())[:200] or type(error).__name__


def write_text(path: Path, text: str) -> None:
    """Write a small file as UTF-8; see `replaced`."""
    with replaced(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file's content; see `replaced`."""
    with replaced(path) as partial:
        partial.write_bytes(content)


def write_json(path: Path, content: Any) -> None:
    """Write plain data as indented JSON, names that are no Unicode written out; see `replaced`."""
    write_text(path, json.dumps(plain_data(content), indent=2) + "\n")
