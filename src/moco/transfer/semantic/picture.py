"""Label maps over their images: the images, the truth, and what each model says of them, with a key of the classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from moco.transfer.label_maps.mean_iou import VOID
from moco.transfer.pictures.sheet import IMAGES, Colour, colour, paint, tile, write_sheet

_VOID_COLOUR = (0, 0, 0)
_BACKGROUND = "background"  # the class of this name is left as the image shows it


def draw_label_maps(
    images: Sequence[Path], rows: Mapping[str, Sequence[Tensor]], classes: Sequence[str], file: Path
) -> None:
    """Write a PNG.

    Args:
        images: files.
        rows: label maps (H, W) of each image, by what the row is called.
        classes: names, for the key below; those that no row shows are left out of it.
        file: is replaced at once.
    """
    colours = {number: colour(number) for number, name in enumerate(classes) if name != _BACKGROUND}
    colours[VOID] = _VOID_COLOUR
    tiles = {IMAGES: [tile(path) for path in images]}
    for name, maps in rows.items():
        tiles[name] = [tile(path, muted=True) for path in images]
        for shown, labels in zip(tiles[name], maps, strict=True):
            paint(shown, labels.numpy(), colours)
    seen = np.unique(np.concatenate([labels.numpy().reshape(-1) for maps in rows.values() for labels in maps]))
    key: dict[str, Colour] = {
        "void" if number == VOID else classes[number]: colours[number] for number in seen.tolist() if number in colours
    }
    write_sheet(tiles, key, file)
