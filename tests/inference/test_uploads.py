"""Uploaded bytes are believed only after they were checked, and cost nothing before."""

import hashlib
import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image

from diptych.inference.limits import Limits
from diptych.inference.uploads import check_sha256, check_size, checked_latents, checked_picture
from diptych.rpc.violations import Violations

LIMITS = Limits(max_side=512, max_pixels=256 * 512, max_images=4)


def encoded(width: int, height: int, kind: str = "PNG", mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (width, height)).save(buffer, kind)
    return buffer.getvalue()


def animation() -> bytes:
    buffer = io.BytesIO()
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
    frames[0].save(buffer, "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    return buffer.getvalue()


def bomb(side: int) -> bytes:
    """Return a well-formed PNG header that claims ``side`` x ``side`` pixels, and few bytes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 1_000_000, 9)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


def findings(data: bytes, limits: Limits = LIMITS) -> str:
    found = Violations()
    checked_picture(data, limits, found, field="image.data")
    return "; ".join(f"{v.field}: {v.description}" for v in found.found)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_picture_that_decodes_tells_its_size(kind: str, mode: str) -> None:
    found = Violations()
    size = checked_picture(encoded(128, 64, kind, mode), LIMITS, found, field="image.data")
    assert (size, found.found) == ((128, 64), ())


def test_empty_picture_is_refused() -> None:
    assert findings(b"") == "image.data: is empty; a PNG, WebP or JPEG picture was expected"


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
def test_truncated_picture_is_refused(kind: str) -> None:
    rng = np.random.default_rng(0)
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (64, 64, 3), np.uint8)).save(buffer, kind)
    assert "does not decode" in findings(buffer.getvalue()[: len(buffer.getvalue()) // 2])


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "ICO"])
def test_other_formats_are_refused(kind: str) -> None:
    assert "does not decode as PNG, WebP or JPEG" in findings(encoded(64, 64, kind))


def test_picture_over_the_byte_limit_is_refused_with_the_limit() -> None:
    assert findings(b"x" * 11, Limits(max_inline_bytes=10)) == (
        "image.data: 11 bytes exceed the limit of 10"
    )


@pytest.mark.parametrize("side", [1024, 20_000, 60_000])
def test_picture_that_claims_too_many_pixels_is_refused_undecoded(side: int) -> None:
    assert "limit" in findings(bomb(side))


def test_size_that_is_no_multiple_is_refused() -> None:
    assert findings(encoded(100, 64)) == "image.data: 100 is not a multiple of 8"


def test_bytes_of_no_known_kind_are_told_apart_from_damage() -> None:
    assert findings(b"GIF89a and more") == (
        "image.data: does not decode as PNG, WebP or JPEG: it is none of them"
    )


def test_size_of_a_turned_photo_is_judged_upright() -> None:
    buffer = io.BytesIO()
    picture = Image.new("RGB", (128, 64))
    exif = picture.getexif()
    exif[ExifTags.Base.Orientation] = 6
    picture.save(buffer, "JPEG", exif=exif)
    size = checked_picture(buffer.getvalue(), LIMITS, Violations(), field="image.data")
    assert size == (64, 128)


def test_animation_is_refused() -> None:
    assert findings(animation()) == "image.data: is an animation of 2 frames, not one picture"


@given(st.binary(max_size=300))
def test_any_bytes_end_in_findings_not_in_an_error(data: bytes) -> None:
    assert findings(data)


@given(st.integers(8, 200), st.integers(0, 255), st.sampled_from(["PNG", "WEBP", "JPEG"]))
def test_damaged_picture_never_raises(position: int, value: int, kind: str) -> None:
    data = bytearray(encoded(64, 64, kind))
    data[position % len(data)] = value
    assert isinstance(findings(bytes(data)), str)


def test_size_over_every_limit_tells_each() -> None:
    found = Violations()
    check_size(1001, 1024, LIMITS, found, fields=("width", "height"))
    assert [(v.field, v.description) for v in found.found] == [
        ("width", "1001 exceeds the limit of 512"),
        ("width", "1001 is not a multiple of 8"),
        ("height", "1024 exceeds the limit of 512"),
        ("width", "1001x1024 is 1025024 pixels, over the limit of 131072"),
    ]


def latents_findings(shape: list[int], data: bytes) -> list[tuple[str, str]]:
    found = Violations()
    checked_latents(shape, data, num_channels=4, limits=LIMITS, found=found)
    return [(v.field, v.description) for v in found.found]


def test_latents_keep_their_values() -> None:
    values = np.random.default_rng(0).standard_normal((2, 4, 16, 8)).astype("<f4")
    found = Violations()
    latents = checked_latents(
        values.shape, values.tobytes(), num_channels=4, limits=LIMITS, found=found
    )
    np.testing.assert_array_equal(latents, values)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_latents_that_are_not_finite_are_refused(value: float) -> None:
    values = np.zeros((1, 4, 16, 16), "<f4")
    values[0, 1, 2, 3] = value
    assert latents_findings([1, 4, 16, 16], values.tobytes()) == [
        ("latents.data", "1 of 1024 values are not finite")
    ]


@pytest.mark.parametrize(
    "shape", [[], [4, 16, 16], [1, 4, 16, 16, 1], [0, 4, 16, 16], [1, 4, -1, 9]]
)
def test_latents_of_another_rank_are_refused(shape: list[int]) -> None:
    assert [field for field, _ in latents_findings(shape, b"")] == ["latents.header.shape"]


def test_latents_too_large_to_go_on_with_are_refused() -> None:
    data = np.full((1, 4, 8, 8), -1e38, "<f4").tobytes()
    ((field, description),) = latents_findings([1, 4, 8, 8], data)
    assert (field, "1e+38 exceeds the limit of 1e+06" in description) == ("latents.data", True)


def test_latents_with_other_channels_are_refused() -> None:
    assert latents_findings([1, 16, 16, 16], b"") == [
        ("latents.header.shape", "16 channels, while the refiner takes 4")
    ]


def test_latents_with_missing_bytes_are_refused() -> None:
    assert latents_findings([1, 4, 16, 16], b"1234") == [
        ("latents.data", "4 bytes do not fill shape [1, 4, 16, 16], which takes 4096")
    ]


def test_latents_of_too_many_images_are_refused() -> None:
    assert latents_findings([5, 4, 16, 16], b"") == [
        ("latents.header.shape[0]", "5 exceeds the limit of 4")
    ]


def test_latents_of_a_huge_claim_are_refused_without_allocating() -> None:
    assert latents_findings([2**31 - 1, 4, 2**31 - 1, 2**31 - 1], b"")


def test_digest_that_differs_is_refused() -> None:
    found = Violations()
    check_sha256(b"data", b"other", found, field="latents.sha256")
    assert [v.field for v in found.found] == ["latents.sha256"]


@pytest.mark.parametrize("claimed", [b"", hashlib.sha256(b"data").digest()])
def test_digest_that_agrees_or_is_absent_passes(claimed: bytes) -> None:
    found = Violations()
    check_sha256(b"data", claimed, found, field="latents.sha256")
    assert not found
