"""Progress bars on stderr: what is being done, how far, how long still."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm


def watch(items: Iterable[Any], total: int, *, what: str, quiet: bool) -> Any:
    """The items, with a bar that follows them; on a terminal it vanishes at its end, elsewhere it says a line every
    half minute.
    """
    interval = 0.5 if sys.stderr.isatty() else 30.0
    pace: dict[str, Any] = {"mininterval": interval, "maxinterval": 2 * interval}
    return tqdm(items, desc=what, total=total, disable=quiet, leave=False, dynamic_ncols=True, **pace)
