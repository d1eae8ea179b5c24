"""Pictures stand in rows, in order, with room for their words."""

import numpy as np
from PIL import Image

from diptych.cli.contact_sheet import contact_sheet


def solid(colour: tuple[int, int, int]) -> Image.Image:
    return Image.new("RGB", (128, 128), colour)


def test_pictures_fill_rows_in_order() -> None:
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    sheet = contact_sheet([solid(c) for c in colours], ["a", "b", "c"], columns=2)
    seen = [sheet.getpixel(at) for at in ((20, 20), (20 + 128 + 16, 20), (20, sheet.height - 50))]
    assert seen == colours


def test_captions_leave_ink() -> None:
    blank = contact_sheet([solid((9, 9, 9))], [""])
    written = contact_sheet([solid((9, 9, 9))], ["a large red heart"])
    assert written.height > blank.height
    assert (np.asarray(written)[150:] < 100).any()


def test_long_captions_make_the_sheet_taller_rather_than_run_over() -> None:
    short = contact_sheet([solid((9, 9, 9))] * 2, ["heart", "star"])
    long = contact_sheet([solid((9, 9, 9))] * 2, ["heart " * 20, "star"])
    assert (long.width, long.height > short.height) == (short.width, True)
