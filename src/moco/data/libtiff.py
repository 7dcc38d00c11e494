"""What libtiff, which Pillow reads compressed TIFF files with, says of a file: heard here instead of on the terminal.

The library writes to standard error by itself, at each visit of a file, where no filter of Python's sees it.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import threading
from collections.abc import Iterator
from typing import Any

_thread = threading.local()  # a file is decoded, and spoken of, in one thread


class Heard:
    """What is to be noted of a file beside its pixels.

    Attributes:
        said: whether the library had something to say.
        first_only: whether there are further pages or frames, which are not used.
    """

    said = first_only = False


@contextlib.contextmanager
def listening() -> Iterator[Heard]:
    """Inside, what the library says of files that this thread decodes is noted and not printed."""
    hear_libtiff()
    outer, _thread.heard = getattr(_thread, "heard", None), Heard()
    try:
        yield _thread.heard
    finally:
        _thread.heard = outer


def note_first_only() -> None:
    """Note that of the file that this thread decodes only the first page or frame is used."""
    heard = getattr(_thread, "heard", None)
    if heard is not None:
        heard.first_only = True


def _note(module: bytes, text: bytes, values: int) -> None:
    """For the library: a warning or an error, as a format and its values."""
    heard = getattr(_thread, "heard", None)
    if heard is not None:
        heard.said = True


@functools.cache
def hear_libtiff() -> Any:
    """Take the place of what prints, for the whole process; what is returned has to live as long.

    Outside `listening` what the library says is dropped: the file will be read again. Where Pillow has the library
    built in under no name, all stays as it is.
    """
    from PIL import _imaging

    handler = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p)(_note)
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(_imaging.__file__)  # its symbols and those of the libraries that it loads
        library.TIFFSetWarningHandler(handler)
        library.TIFFSetErrorHandler(handler)
    return handler
