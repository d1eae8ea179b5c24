"""Pictures written and read."""

import io

import numpy as np
import pytest
from PIL import Image

from diptych.errors import InvalidRequest
from diptych.inference.pictures import encode_picture, read_picture
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


def test_refuses_bytes_that_are_no_picture() -> None:
    with pytest.raises(InvalidRequest, match="does not decode"):
        read_picture(b"not a picture", 8, 8)
