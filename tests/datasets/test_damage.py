"""Pictures hurt on purpose are told from sound ones."""

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from diptych.datasets.damage import (
    MAX_BLOCKINESS,
    blockiness,
    cut_problem,
    damage_of,
    jpeg_quality,
    suffix_problem,
)
from support.made_pictures import natural_picture, picture_bytes

PHOTO = natural_picture(0)


def jpeg(image: Image.Image, quality: int) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def decoded(data: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.mark.parametrize("quality", [10, 30, 50, 75, 95, 100])
def test_the_quality_of_a_jpeg_is_read_from_its_tables(quality: int) -> None:
    assert abs((jpeg_quality(jpeg(PHOTO, quality)) or 0) - quality) <= 5


@pytest.mark.parametrize(("quality", "is_reported"), [(20, True), (45, True), (60, False)])
def test_a_jpeg_of_low_quality_is_reported(quality: int, is_reported: bool) -> None:
    data = jpeg(PHOTO, quality)
    assert ("JPEG quality about" in damage_of(data, decoded(data), "JPEG")) is is_reported


@pytest.mark.parametrize("shift", [0, 3, 5])
def test_blocks_are_found_in_what_was_saved_again_as_a_png(shift: int) -> None:
    pixels = decoded(jpeg(PHOTO, 15))[shift:, shift:]
    assert "blocks of 8 pixels stand out" in damage_of(b"", pixels, "PNG")


@pytest.mark.parametrize("image", [PHOTO, Image.new("RGB", (512, 512)), Image.new("RGB", (9, 9))])
def test_a_sound_picture_has_no_blocks(image: Image.Image) -> None:
    assert damage_of(b"", np.asarray(image), "PNG") == ""
    assert blockiness(np.asarray(image.convert("L"), dtype=np.float32)) < MAX_BLOCKINESS


@pytest.mark.parametrize(
    ("suffix", "picture_format"), [(".jpg", "JPEG"), (".png", "PNG"), (".webp", "WEBP")]
)
def test_a_file_that_was_cut_is_known_without_decoding(suffix: str, picture_format: str) -> None:
    data = picture_bytes(1, suffix=suffix)
    assert cut_problem(data, picture_format) == ""
    assert cut_problem(data + b"trailing bytes", picture_format) == ""
    assert cut_problem(data[: len(data) * 2 // 3], picture_format) != ""


@pytest.mark.parametrize(
    ("place", "picture_format", "is_wrong"),
    [
        ("a.png", "JPEG", True),
        ("x/a.JPG", "JPEG", False),
        ("a.jpg", "WEBP", True),
        ("a", "PNG", False),
        ("http://host/a.php", "PNG", False),
        ("a.tiff", "TIFF", False),
    ],
)
def test_a_name_that_claims_another_format_is_told(
    place: str, picture_format: str, is_wrong: bool
) -> None:
    assert bool(suffix_problem(place, picture_format)) is is_wrong
