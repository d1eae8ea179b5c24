"""Pictures hurt on purpose are told from sound ones."""

import io
from random import Random

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
from diptych.nano.scenes import render, sample_scene
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


def saved_again(image: Image.Image, quality: int) -> NDArray[np.uint8]:
    """Return the pixels of a JPEG that was saved as a PNG."""
    return decoded(jpeg(image, quality))


def are_blocks_found(pixels: NDArray[np.uint8]) -> bool:
    return "blocks of 8 pixels stand out" in damage_of(b"", pixels, "PNG")


@pytest.mark.parametrize("shift", [0, 3, 5])
@pytest.mark.parametrize("quality", [5, 10, 15, 20])
def test_blocks_are_found_in_what_was_saved_again_as_a_png(quality: int, shift: int) -> None:
    pictures = [natural_picture(seed, side=256) for seed in range(3)]
    found = [are_blocks_found(saved_again(one, quality)[shift:, shift:]) for one in pictures]
    assert found == [True] * 3


@pytest.mark.parametrize("quality", [50, 75, 95])
def test_good_jpegs_have_no_blocks_to_speak_of(quality: int) -> None:
    assert not are_blocks_found(saved_again(PHOTO, quality))


ROWS, COLUMNS = np.mgrid[:256, :256]
TEXTURES = {
    "chequers": (ROWS // 8 + COLUMNS // 8) % 2 == 0,
    "grid": (ROWS % 8 == 0) | (COLUMNS % 8 == 0),
    "dots": (ROWS % 8 < 4) & (COLUMNS % 8 < 4),
    "wide dots": (ROWS % 16 < 8) & (COLUMNS % 16 < 8),
    "bricks": (ROWS % 8 == 0) | ((COLUMNS + ROWS // 8 * 4) % 8 == 0),
    "stripes": (ROWS + COLUMNS) % 8 < 4,
}


@pytest.mark.parametrize("texture", TEXTURES)
def test_texture_as_wide_as_blocks_is_none(texture: str) -> None:
    mask = TEXTURES[texture]
    noise = np.random.default_rng(0).normal(0, 1.5, mask.shape)
    for grey in (mask * 160.0 + 40, mask * 60.0 + 90 + noise):
        assert not are_blocks_found(np.repeat(grey[..., None], 3, axis=2).astype(np.uint8))


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_drawn_scenes_with_their_textures_have_no_blocks(factor: int) -> None:
    random = Random(0)
    scenes = [render(sample_scene(random), random) for _ in range(40)]
    side = factor * scenes[0].width
    found = [are_blocks_found(np.asarray(scene.resize((side, side)))) for scene in scenes]
    assert found == [False] * 40


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
