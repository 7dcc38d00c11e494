"""Any number of classes for an image, from a CSV file with the columns `path` and `labels`.

N: images   C: classes
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from moco.data.base import Source
from moco.data.labels import MULTI_NAMES, Finder, read_rows, sorted_names
from moco.errors import DataError

SEPARATOR = "|"


def read_multilabels(path: str | Path, sources: Sequence[Source]) -> tuple[list[np.ndarray], tuple[str, ...]]:
    """Classes of the images of several sources from one CSV file.

    Classes of one cell are separated by `|`; several rows for one image add up. An empty cell means that the image has
    none of the classes. Paths are understood as `read_labels` understands them.

    Returns:
        for each source (N, C) float32: 1 where the image has the class, 0 where not, a row of NaN for an image that
        the file does not name; and the class names, sorted as numbers if all of them are, else as text.

    Raises:
        DataError: no such file, a missing column, no class at all, or nothing that matches.
    """
    path = Path(path)
    rows = [(item, [name.strip() for name in cell.split(SEPARATOR)]) for item, cell in read_rows(path, MULTI_NAMES)]
    names = sorted_names({name for _, cell in rows for name in cell if name})
    if not names:
        raise DataError(f"{path}: every cell of labels is empty; expected classes separated by {SEPARATOR}")
    number = {name: position for position, name in enumerate(names)}
    found = []
    for source in sources:
        finder = Finder(source, path.parent)
        targets = np.full((len(source), len(names)), np.nan, dtype=np.float32)
        for item, cell in rows:
            index = finder.find(item)
            if index is not None:
                targets[index] = np.nan_to_num(targets[index])
                targets[index, [number[name] for name in cell if name]] = 1.0
        if np.isnan(targets).all():
            raise DataError(
                f"{path}: none of its {len(rows)} paths is an image of {source.name}; it says {rows[0][0]!r}, "
                f"the images are called like {source.item_name(0)!r}"
            )
        found.append(targets)
    return found, names
