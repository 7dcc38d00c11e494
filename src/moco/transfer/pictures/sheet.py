"""Tiles in rows: the images, the truth, and each model's answers below one another, as one PNG.

H, W: height, width
"""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from moco.atomic import replaced
from moco.data.decode import as_image, read_pixels

Colour = tuple[int, int, int]
IMAGES = "images"  # what the row without answers is called
SIDE = 320  # pixels of a tile's longer side
_GREY = 0.8  # share of grey in a muted image
_SHARE = 0.5  # of an area's colour in what is seen; its outline is all colour
_GAP, _MARGIN, _LINE, _SWATCH = (
    6,
    8,
    24,
    12,
)  # pixels: between tiles, around all, of a line, of a colour's square
_FONT, _SMALL = 16, 12
_GOLDEN = 0.618034  # share of the circle of hues between neighbouring colours: any few in a row differ
_BRIGHT = 140  # of 255: text on a brighter colour is black
_BRIGHTNESS = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601


def colour(number: int) -> Colour:
    """A colour of its own for each number from 0 on."""
    value, saturation = (1.0, 0.75, 0.55)[number % 3], (0.95, 0.55)[number // 3 % 2]
    red, green, blue = (round(255 * part) for part in colorsys.hsv_to_rgb(number * _GOLDEN % 1, saturation, value))
    return red, green, blue


def tile(path: Path, *, muted: bool = False) -> Image.Image:
    """The image in RGB, enlarged or reduced so that its longer side is `SIDE`.

    Args:
        path: of the image.
        muted: nearly grey, so that what is drawn on it can be told from the image.
    """
    whole = as_image(read_pixels(path)).convert("RGB")
    if muted:
        whole = Image.blend(whole, whole.convert("L").convert("RGB"), _GREY)
    scale = SIDE / max(whole.size)
    size = max(1, round(whole.width * scale)), max(1, round(whole.height * scale))
    return whole.resize(size, Image.Resampling.BICUBIC)


def paint(shown: Image.Image, areas: np.ndarray, colours: Mapping[int, Colour]) -> None:
    """Cover areas of a tile with translucent colours and draw their outlines, in place.

    Args:
        shown: RGB.
        areas: (H, W) of whole numbers 0 to 255, stretched over the tile; numbers without a colour are left as they are.
        colours: by number.
    """
    drawn = Image.fromarray(areas.astype(np.uint8)).resize(shown.size, Image.Resampling.NEAREST)
    numbers = np.asarray(drawn)
    table, share = np.zeros((256, 3)), np.zeros(256)
    for number, each in colours.items():
        table[number], share[number] = each, _SHARE
    shares = np.where(_edges(numbers) & (share[numbers] > 0), 1.0, share[numbers])[..., None]
    mixed = np.asarray(shown) * (1 - shares) + table[numbers] * shares
    shown.paste(Image.fromarray(np.round(mixed).astype(np.uint8)))


def _edges(numbers: np.ndarray) -> np.ndarray:
    """(H, W): whether a neighbour has another number."""
    found = np.zeros(numbers.shape, dtype=bool)
    across, down = numbers[:, 1:] != numbers[:, :-1], numbers[1:] != numbers[:-1]
    found[:, 1:] |= across
    found[:, :-1] |= across
    found[1:] |= down
    found[:-1] |= down
    return found


def label(draw: ImageDraw.ImageDraw, text: str, box: Sequence[float], on: Colour) -> None:
    """Text on a patch of colour at the upper left corner of a box of a tile: above it where there is room."""
    font = ImageFont.load_default(_SMALL)
    _, _, right, bottom = draw.textbbox((0, 0), text, font=font)
    width, height = right + 4, bottom + 3
    x = max(0, min(box[0], SIDE - width))
    y = box[1] - height if box[1] >= height else box[1]
    draw.rectangle((x, y, x + width, y + height), fill=on)
    draw.text((x + 2, y + 1), text, fill=_ink(on), font=font)


def _ink(on: Colour) -> str:
    return "black" if float(_BRIGHTNESS @ np.array(on)) > _BRIGHT else "white"


def write_sheet(rows: Mapping[str, Sequence[Image.Image]], key: Mapping[str, Colour], file: Path) -> None:
    """Write rows of tiles as a PNG, each below its name; all rows show the same sizes.

    Args:
        rows: tiles by the row's name.
        key: what the colours stand for, listed below; empty where the tiles say it.
        file: is replaced at once.
    """
    first = next(iter(rows.values()))
    width = sum(each.width + _GAP for each in first) - _GAP + 2 * _MARGIN
    height = max(each.height for each in first) + _LINE + _GAP
    font = ImageFont.load_default(_FONT)
    places, bottom = _key_places(key, width, font)
    sheet = Image.new("RGB", (width, height * len(rows) + bottom + _MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (name, row) in enumerate(rows.items()):
        left, top = _MARGIN, number * height
        draw.text((left, top + 3), name, fill="black", font=font)
        for each in row:
            sheet.paste(each, (left, top + _LINE))
            left += each.width + _GAP
    for (name, on), (left, line) in zip(key.items(), places, strict=True):
        top = height * len(rows) + line
        draw.rectangle((left, top + 5, left + _SWATCH, top + 5 + _SWATCH), fill=on)
        draw.text((left + _SWATCH + 5, top + 2), name, fill="black", font=font)
    with replaced(file) as partial:
        sheet.save(partial, format="PNG")


def _key_places(
    key: Mapping[str, Colour], width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont
) -> tuple[list[tuple[int, int]], int]:
    """Left and top of each entry, in lines as wide as the sheet, and the height of all."""
    places, left, top = [], _MARGIN, 0
    for name in key:
        needed = round(font.getlength(name)) + _SWATCH + 20
        if left > _MARGIN and left + needed > width:
            left, top = _MARGIN, top + _LINE
        places.append((left, top))
        left += needed
    return places, top + _LINE if key else 0
