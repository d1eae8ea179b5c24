"""Many pictures on one sheet, each with its words under it."""

import textwrap
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

__all__ = ["contact_sheet"]

MARGIN, LINE_HEIGHT, FONT_SIZE = 16, 16, 13
PAPER, INK = (250, 249, 246), (52, 52, 58)
CHARACTER_WIDTH = 7.0
"""Pixels that one character of the caption takes on average."""


def contact_sheet(
    pictures: Sequence[Image.Image], captions: Sequence[str], *, columns: int = 4
) -> Image.Image:
    """Return the pictures in rows of ``columns``, in order, captions wrapped under each.

    Args:
        pictures: At least one, all of one size.
        captions: As many.
        columns: Pictures in a row.
    """
    width, height = pictures[0].size
    lines = [textwrap.wrap(c, max(8, int(width / CHARACTER_WIDTH))) for c in captions]
    cell_height = height + max(map(len, lines)) * LINE_HEIGHT + 2 * MARGIN
    rows = -(-len(pictures) // columns)
    sheet = Image.new(
        "RGB",
        (columns * (width + MARGIN) + MARGIN, rows * cell_height + MARGIN),
        PAPER,
    )
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=FONT_SIZE)
    for index, (picture, caption) in enumerate(zip(pictures, lines, strict=True)):
        left = MARGIN + index % columns * (width + MARGIN)
        top = MARGIN + index // columns * cell_height
        sheet.paste(picture.convert("RGB"), (left, top))
        for number, line in enumerate(caption):
            at = (left, top + height + MARGIN // 2 + number * LINE_HEIGHT)
            draw.text(at, line, fill=INK, font=font)
    return sheet
