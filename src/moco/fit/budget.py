"""Time as users write it: 90s, 30m, 8h."""

from __future__ import annotations

import re

from moco.errors import ConfigError

UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
ON_CPU, ON_GPU = 30 * 60.0, 8 * 3600.0  # seconds, where no budget is stated: a coffee break, a night


def seconds(budget: str) -> float:
    """Seconds of a text like 90s, 30m, 1.5h or 2d.

    Raises:
        ConfigError: another text, or no time at all.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smhd])\s*", budget) if isinstance(budget, str) else None
    if found is None or float(found[1]) <= 0:
        raise ConfigError(f"budget={budget!r}: expected a time such as 90s, 30m or 8h")
    return float(found[1]) * UNITS[found[2]]
