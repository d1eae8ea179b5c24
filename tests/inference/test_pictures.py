"""Pictures written and read."""

import io

import numpy as np
import pytest
from PIL import ExifTags, Image

from diptych.errors import InvalidRequest
from diptych.inference.pictures import encode_picture, read_picture, upright_size
from diptych.inference.trajectory import OutputFormat

PIXELS = np.full((16, 24, 3), (200, 100, 50), np.uint8)


@pytest.mark.parametrize("output", [OutputFormat.PNG, OutputFormat.WEBP, OutputFormat.JPEG])
def test_writes_the_format_it_was_asked_for(output: OutputFormat) -> None:
    data = encode_picture(PIXELS, output, quality=90)
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.format == output.value.upper()


def test_a_png_is_exact() -> None:
    data = encode_picture(PIXELS, OutputFormat.PNG, quality=1)
    np.testing.assert_array_equal(read_picture(data, 24, 16), PIXELS)


def test_resizes_a_picture_of_another_size() -> None:
    data = encode_picture(PIXELS, OutputFormat.PNG, quality=1)
    assert read_picture(data, 8, 32).shape == (32, 8, 3)


def turned_photo(orientation: int) -> bytes:
    """Return a 24 x 16 JPEG, white on the left and black on the right, with an orientation."""
    pixels = np.zeros((16, 24, 3), np.uint8)
    pixels[:, :12] = 255
    buffer = io.BytesIO()
    picture = Image.fromarray(pixels)
    exif = picture.getexif()
    exif[ExifTags.Base.Orientation] = orientation
    picture.save(buffer, "JPEG", exif=exif, quality=95)
    return buffer.getvalue()


@pytest.mark.parametrize(("orientation", "expected"), [(1, (24, 16)), (3, (24, 16)), (6, (16, 24))])
def test_size_is_that_of_the_upright_picture(orientation: int, expected: tuple[int, int]) -> None:
    with Image.open(io.BytesIO(turned_photo(orientation))) as picture:
        assert upright_size(picture) == expected


def test_a_turned_photo_is_read_upright() -> None:
    pixels = read_picture(turned_photo(6), 16, 24)
    assert (pixels[:8].mean() > 250, pixels[-8:].mean() < 5) == (True, True)


def test_sixteen_bit_grey_keeps_its_tones() -> None:
    grey = np.linspace(0, 65535, 24, dtype=np.uint16)[None].repeat(16, axis=0)
    buffer = io.BytesIO()
    Image.fromarray(grey).save(buffer, "PNG")
    pixels = read_picture(buffer.getvalue(), 24, 16)
    np.testing.assert_array_equal(pixels[..., 0], grey >> 8)


def test_refuses_bytes_that_are_no_picture() -> None:
    with pytest.raises(InvalidRequest, match="does not decode"):
        read_picture(b"not a picture", 8, 8)
