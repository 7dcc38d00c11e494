"""Images side by side with a line of text below each."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

Cell = tuple[Image.Image, str]
_BACKGROUND, _INK, _MARK = "white", "black", "crimson"
_GAP, _LINE, _FONT = 6, 16, 11  # pixels


def contact_sheet(rows: Sequence[Sequence[Cell]], *, cell: int = 128) -> Image.Image:
    """One picture of all rows; the first image of each row stands apart, in a frame.

    Args:
        rows: images of any size with their text, which is cut off at the width of a cell.
        cell: side of an image in the picture, in pixels; images keep their proportions.
    """
    columns = max(len(row) for row in rows)
    step, height = cell + _GAP, cell + _LINE + _GAP
    sheet = Image.new("RGB", (columns * step + 3 * _GAP, len(rows) * height + _GAP), _BACKGROUND)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(_FONT)
    for number, row in enumerate(rows):
        for column, (image, text) in enumerate(row):
            left, top = _GAP + column * step + (2 * _GAP if column else 0), _GAP + number * height
            small = image.copy()
            small.thumbnail((cell, cell))
            sheet.paste(small, (left + (cell - small.width) // 2, top + (cell - small.height) // 2))
            if column == 0:
                draw.rectangle((left - 2, top - 2, left + cell + 1, top + cell + 1), outline=_MARK, width=2)
            draw.text((left, top + cell + 3), _fitted(text, draw, font, cell), fill=_INK, font=font)
    return sheet


def _fitted(
    text: str, draw: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int
) -> str:
    """The text, its end cut off where it is wider than `width` pixels."""
    if draw.textlength(text, font=font) <= width:
        return text
    while text and draw.textlength(text + "...", font=font) > width:
        text = text[:-1]
    return text + "..."
