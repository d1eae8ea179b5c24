"""Samples of every kind become sRGB as their profile says."""

import io

import numpy as np
import pytest
from PIL import Image, ImageCms

from diptych.datasets.picture_colours import check_profile, to_srgb
from support.bad_pictures import gradient, saved, swapped_profile

PIXELS = gradient()
WHITE = (255, 255, 255)


def opened(data: bytes) -> Image.Image:
    picture = Image.open(io.BytesIO(data))
    picture.load()
    return picture


def test_a_profile_is_applied() -> None:
    picture = opened(saved(PIXELS, icc_profile=swapped_profile()))
    found = to_srgb(picture, colour="srgb", background=WHITE)
    assert check_profile(picture) is None
    assert np.abs(found.astype(int) - PIXELS[..., ::-1].astype(int)).max() <= 2


def test_a_profile_is_left_out_on_demand() -> None:
    picture = opened(saved(PIXELS, icc_profile=swapped_profile()))
    assert np.array_equal(to_srgb(picture, colour="ignore", background=WHITE), PIXELS)


def test_a_profile_acts_on_colours_under_alpha_too() -> None:
    picture = Image.fromarray(PIXELS).convert("RGBA")
    picture.putalpha(128)
    found = to_srgb(
        opened(saved(picture, icc_profile=swapped_profile())), colour="srgb", background=(0, 0, 0)
    )
    expected = PIXELS[..., ::-1].astype(int) * 128 / 255
    assert np.abs(found - expected).max() <= 2


@pytest.mark.parametrize("mode", ["L", "LA", "1"])
def test_a_profile_of_other_samples_is_told_and_not_applied(mode: str) -> None:
    picture = opened(saved(Image.new(mode, (8, 8)), icc_profile=swapped_profile()))
    assert check_profile(picture) == "its colour profile is for RGB, its samples are GRAY"
    assert to_srgb(picture, colour="srgb", background=WHITE).shape == (8, 8, 3)


def test_a_damaged_profile_is_told_and_not_applied() -> None:
    picture = opened(saved(PIXELS, icc_profile=b"no profile at all" * 20))
    assert "cannot be read" in (check_profile(picture) or "")
    assert np.array_equal(to_srgb(picture, colour="srgb", background=WHITE), PIXELS)


def test_an_srgb_profile_changes_next_to_nothing() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    found = to_srgb(opened(saved(PIXELS, icc_profile=profile)), colour="srgb", background=WHITE)
    assert np.abs(found.astype(int) - PIXELS.astype(int)).max() <= 1


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "La", "CMYK", "YCbCr"]
)
def test_every_mode_of_eight_bits_becomes_three_channels(mode: str) -> None:
    base = Image.fromarray(PIXELS)
    through = {"PA": "P", "RGBa": "RGBA", "La": "LA"}.get(mode)
    picture = (base.convert(through) if through else base).convert(mode)
    assert to_srgb(picture, colour="srgb", background=WHITE).shape == PIXELS.shape
