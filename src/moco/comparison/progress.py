"""Progress bars on stderr: what is being done, how far, how long still."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm


def bar(what: str, total: int, *, show: bool) -> Any:
    """A bar of `total` items; on a terminal it vanishes at its end, elsewhere it says a line every half minute."""
    interval = 0.5 if sys.stderr.isatty() else 30.0
    return tqdm(
        desc=what,
        total=total,
        disable=not show,
        leave=False,
        mininterval=interval,
        maxinterval=2 * interval,
        dynamic_ncols=True,
    )


def watch(items: Iterable[Any], total: int, what: str, *, show: bool) -> Iterable[Any]:
    """The items, with a bar that follows them."""
    with bar(what, total, show=show) as progress:
        for item in items:
            yield item
            progress.update()
