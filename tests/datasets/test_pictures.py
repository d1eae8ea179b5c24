"""Whatever is found in a collection becomes the right pixels, or an error that says why not."""

import hashlib
import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from diptych.datasets.pictures import PictureInfo, PictureLimits, prepare, read_picture_info
from diptych.embeddings.key import Preprocessing
from diptych.errors import ImageInvalid
from support.bad_pictures import (
    HEIC,
    SVG,
    animation,
    bomb_png,
    deep_rgb_png,
    gradient,
    saved,
    with_late_orientation,
)

WIDTH, HEIGHT = 24, 16
PIXELS = gradient(WIDTH, HEIGHT)
PNG = saved(PIXELS)
JPEG = saved(PIXELS, "JPEG", quality=95)


def whole(width: int = WIDTH, height: int = HEIGHT, **changes: Any) -> Preprocessing:
    plain = Preprocessing(resized=(width, height), crop=(0, 0, width, height))
    return replace(plain, **changes)


def close(found: NDArray[np.uint8], expected: NDArray[np.uint8], most: int) -> bool:
    return bool(np.abs(found.astype(int) - expected.astype(int)).max() <= most)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_a_header_says_what_a_file_is(kind: str) -> None:
    info = read_picture_info(saved(PIXELS, kind))
    assert (info.width, info.height, info.format) == (WIDTH, HEIGHT, kind)
    assert (info.orientation, info.num_frames, info.has_alpha, info.oddities) == (1, 1, False, ())


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_reads_exact_pixels(kind: str) -> None:
    assert np.array_equal(prepare(saved(PIXELS, kind), whole()), PIXELS)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_reads_lossy_files(kind: str) -> None:
    assert close(prepare(saved(PIXELS, kind, quality=95), whole()), PIXELS, 24)


# What must never change without a new version of ``DECODING``.
@pytest.mark.parametrize(
    ("resample", "digest"),
    [
        ("lanczos", "baad3205f0f5a727"),
        ("bicubic", "e44e40fc6a4ba26a"),
        ("bilinear", "8033aa6185d0ec53"),
        ("area", "d001ec799443f2dc"),
        ("nearest", "e70ecbecaf20ffbf"),
    ],
)
def test_pixels_are_the_same_everywhere(resample: str, digest: str) -> None:
    shrunk = whole(17, 11, resample=resample, crop=(1, 2, 8, 8), is_flipped=True)
    assert hashlib.sha256(prepare(PNG, shrunk).tobytes()).hexdigest()[:16] == digest


@pytest.mark.parametrize("size", [0, 1, 10, len(JPEG) // 2, len(JPEG) - 20])
def test_a_truncated_jpeg_is_refused(size: int) -> None:
    with pytest.raises(ImageInvalid, match=r"a\.jpg"):
        prepare(JPEG[:size], whole(), source="a.jpg")


@pytest.mark.parametrize("size", [4, 20, len(PNG) // 2, len(PNG) - 20])
def test_a_truncated_png_is_refused(size: int) -> None:
    with pytest.raises(ImageInvalid):
        prepare(PNG[:size], whole())


@pytest.mark.parametrize("kind", ["WEBP", "GIF", "BMP", "TIFF"])
def test_other_truncated_files_are_refused(kind: str) -> None:
    data = saved(PIXELS, kind)
    with pytest.raises(ImageInvalid):
        prepare(data[: len(data) // 2], whole())


def test_a_damaged_byte_in_a_png_is_refused() -> None:
    damaged = bytearray(PNG)
    damaged[len(PNG) // 2] ^= 0xFF
    with pytest.raises(ImageInvalid, match="does not decode"):
        prepare(bytes(damaged), whole())


@pytest.mark.parametrize("side", [10_000, 30_000])
def test_a_decompression_bomb_is_refused_by_its_header(side: int) -> None:
    with pytest.raises(ImageInvalid, match="pixels") as raised:
        read_picture_info(bomb_png(side), source="bomb.png")
    assert str(raised.value).startswith("image bomb.png: ")


def test_too_many_pixels_and_too_many_bytes_are_refused_with_the_limit() -> None:
    with pytest.raises(ImageInvalid, match="24x16 pixels, the limit is 300"):
        read_picture_info(PNG, limits=PictureLimits(max_pixels=300))
    with pytest.raises(ImageInvalid, match=f"{len(PNG)} bytes, the limit is 10"):
        read_picture_info(PNG, limits=PictureLimits(max_bytes=10))


def test_an_empty_file_is_refused() -> None:
    with pytest.raises(ImageInvalid, match="is empty"):
        read_picture_info(b"")


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (HEIC, "HEIC"),
        (SVG, "SVG"),
        (b"\x00\x00\x00\x1cftypavif" + bytes(32), "AVIF"),
        (b"<!DOCTYPE html><title>404</title>", "HTML"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (b"a caption", "no known format, beginning with 61 20"),
    ],
)
def test_what_is_not_read_is_refused_by_name(data: bytes, name: str) -> None:
    with pytest.raises(ImageInvalid, match=name) as raised:
        read_picture_info(data, source="x.png")
    assert "read are PNG, JPEG" in str(raised.value)


def test_a_wrong_extension_does_not_matter() -> None:
    assert np.array_equal(prepare(PNG, whole(), source="a.jpg"), PIXELS)
    assert read_picture_info(PNG, source="a.jpg").format == "PNG"


def test_cmyk_becomes_rgb() -> None:
    data = saved(Image.fromarray(PIXELS).convert("CMYK"), "JPEG", quality=95)
    assert read_picture_info(data).mode == "CMYK"
    assert close(prepare(data, whole()), PIXELS, 24)


def test_grey_of_16_bits_keeps_its_upper_byte() -> None:
    grey = np.arange(HEIGHT * WIDTH, dtype=np.uint16).reshape(HEIGHT, WIDTH) * 170
    found = prepare(saved(Image.fromarray(grey)), whole())
    assert np.array_equal(found, np.repeat((grey >> 8).astype(np.uint8)[..., None], 3, axis=-1))


def test_colour_of_16_bits_keeps_its_upper_byte() -> None:
    deep = PIXELS.astype(np.uint16) * 257
    assert np.array_equal(prepare(deep_rgb_png(deep), whole()), PIXELS)


@pytest.mark.parametrize("mode", ["F", "I"])
def test_samples_of_32_bits_are_refused(mode: str) -> None:
    with pytest.raises(ImageInvalid, match="expected 8 or 16 bits"):
        read_picture_info(saved(Image.new(mode, (8, 8)), "TIFF"))


def test_a_palette_with_a_transparent_colour_is_laid_on_the_background() -> None:
    picture = Image.new("P", (WIDTH, HEIGHT), 0)
    picture.putpalette([200, 0, 0, 0, 200, 0])
    picture.paste(1, (0, 0, WIDTH // 2, HEIGHT))
    data = saved(picture, transparency=0)
    found = prepare(data, whole(background=(1, 2, 3)))
    assert read_picture_info(data).has_alpha
    assert found[0, 0].tolist() == [0, 200, 0]
    assert found[0, -1].tolist() == [1, 2, 3]


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_alpha_is_laid_on_the_background_rounded_to_the_nearest(mode: str) -> None:
    picture = Image.new("RGBA", (WIDTH, HEIGHT), (100, 100, 100, 51)).convert(mode)
    assert prepare(saved(picture), whole())[0, 0].tolist() == [224, 224, 224]


def test_a_transparent_grey_of_16_bits_is_laid_on_the_background() -> None:
    grey = np.full((HEIGHT, WIDTH), 1000, np.uint16)
    grey[0, 0] = 1001
    found = prepare(saved(Image.fromarray(grey), transparency=1000), whole())
    assert found[0, 0].tolist() == [3, 3, 3]
    assert found[0, 1].tolist() == [255, 255, 255]


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_an_animation_gives_the_frame_that_is_asked_for(kind: str) -> None:
    data = animation(kind)
    assert read_picture_info(data).num_frames == 2
    assert prepare(data, whole(16, 16))[0, 0].tolist() == [255, 0, 0]
    assert prepare(data, whole(16, 16, frame=1))[0, 0].tolist() == [0, 0, 255]
    with pytest.raises(ImageInvalid, match="has 2 frames, asked for was 2"):
        prepare(data, whole(16, 16, frame=2))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["TIFF", "PNG", "late PNG"])
def test_is_turned_upright_as_exif_says(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = (
        with_late_orientation(PNG, orientation)
        if kind == "late PNG"
        else saved(PIXELS, kind, exif=exif)
    )
    picture = Image.fromarray(PIXELS)
    picture.getexif()[0x0112] = orientation
    expected = np.asarray(ImageOps.exif_transpose(picture))
    info = read_picture_info(data)
    assert (info.height, info.width) == expected.shape[:2]
    assert info.orientation == orientation
    assert np.array_equal(prepare(data, whole(info.width, info.height)), expected)
    assert np.array_equal(prepare(data, whole(orientation="ignore")), PIXELS)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_is_turned_upright(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(PIXELS, "JPEG", exif=exif, quality=95)
    info = read_picture_info(data)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    assert np.array_equal(prepare(data, whole(info.width, info.height)), expected)


def test_an_orientation_that_is_none_counts_as_upright_and_is_told() -> None:
    exif = Image.Exif()
    exif[0x0112] = 77
    data = saved(PIXELS, "JPEG", exif=exif)
    info = read_picture_info(data)
    assert (info.orientation, info.oddities) == (
        1,
        ("its EXIF orientation is 77, expected 1 to 8",),
    )
    assert prepare(data, whole()).shape == (HEIGHT, WIDTH, 3)


def test_garbage_behind_a_jpeg_changes_no_pixel() -> None:
    with_tail = JPEG + b"\xff\xd8" + bytes(range(256)) * 8
    assert np.array_equal(prepare(with_tail, whole()), prepare(JPEG, whole()))


@pytest.mark.parametrize(("width", "height"), [(1, 1), (20_000, 1), (1, 20_000)])
def test_extreme_shapes_are_read(width: int, height: int) -> None:
    data = saved(gradient(width, height))
    info = read_picture_info(data)
    assert (info.width, info.height) == (width, height)
    assert prepare(data, whole(64, 64)).shape == (64, 64, 3)


def test_is_resized_then_cropped_then_flipped() -> None:
    twice = whole(48, 32, resample="nearest", crop=(2, 4, 8, 6), is_flipped=True)
    expected = PIXELS.repeat(2, axis=0).repeat(2, axis=1)[4:10, 2:10][:, ::-1]
    found = prepare(PNG, twice)
    assert np.array_equal(found, expected)
    assert found.flags["C_CONTIGUOUS"]


@pytest.mark.parametrize(
    "crop", [(0, 0, 25, 16), (-1, 0, 4, 4), (0, 0, 0, 4), (20, 0, 8, 8), (0, 15, 2, 2)]
)
def test_a_crop_outside_of_the_picture_is_refused(crop: tuple[int, int, int, int]) -> None:
    with pytest.raises(ImageInvalid, match="not within the 24x16"):
        prepare(PNG, whole(crop=crop))


def test_resizing_beyond_the_limit_is_refused() -> None:
    with pytest.raises(ImageInvalid, match="resized to 100000x100000"):
        prepare(PNG, whole(100_000, 100_000))


def test_a_camera_raw_file_is_not_taken_for_its_thumbnail() -> None:
    with pytest.raises(ImageInvalid, match="raw file"):
        read_picture_info(saved(PIXELS, "TIFF", tiffinfo={254: 1}))


def test_the_second_view_of_a_camera_is_no_animation() -> None:
    first, second = Image.fromarray(PIXELS), Image.fromarray(PIXELS[::-1].copy())
    data = saved(first, "MPO", save_all=True, append_images=[second])
    info = read_picture_info(data)
    assert (info.format, info.num_frames) == ("JPEG", 1)
    assert close(prepare(data, whole()), PIXELS, 40)


def test_reading_a_header_decodes_no_pixels() -> None:
    cut = saved(gradient(256, 256), compress_level=0)[:2000]
    assert isinstance(read_picture_info(cut), PictureInfo)
