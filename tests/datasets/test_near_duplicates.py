"""Pictures that look alike are found, all of them, in less than quadratic time."""

import io
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from diptych.datasets.near_duplicates import near_duplicates, perceptual_hash
from support.made_pictures import natural_picture

PHOTO = natural_picture(0)


def hash_of(image: Image.Image) -> int:
    value = perceptual_hash(np.asarray(image.convert("RGB")))
    assert value is not None
    return value


def saved(image: Image.Image, quality: int) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return Image.open(io.BytesIO(stream.getvalue()))


def distance(one: Image.Image, other: Image.Image) -> int:
    return (hash_of(one) ^ hash_of(other)).bit_count()


@pytest.mark.parametrize(
    "changed",
    [
        saved(PHOTO, 30),
        PHOTO.resize((200, 200)),
        PHOTO.resize((900, 700)),
        ImageEnhance.Brightness(PHOTO).enhance(1.15),
        PHOTO.crop((2, 2, 510, 510)),
    ],
    ids=["saved", "smaller", "larger", "brighter", "cropped"],
)
def test_a_picture_keeps_its_hash_through_small_changes(changed: Image.Image) -> None:
    assert distance(PHOTO, changed) <= 4


def test_other_pictures_have_other_hashes() -> None:
    distances = [distance(PHOTO, natural_picture(seed, side=128)) for seed in range(1, 20)]
    assert min(distances) > 11


def test_a_picture_without_structure_has_no_hash() -> None:
    assert perceptual_hash(np.full((64, 64, 3), 77, dtype=np.uint8)) is None


BASE = st.integers(0, 2**64 - 1)
FLIPS = st.lists(st.integers(0, 63), max_size=12)


@given(
    bases=st.lists(BASE, min_size=1, max_size=3),
    picks=st.lists(st.tuples(st.integers(0, 2), FLIPS), max_size=25),
    limit=st.integers(0, 11),
)
def test_every_close_pair_is_found_and_no_other(
    bases: list[int], picks: list[tuple[int, list[int]]], limit: int
) -> None:
    hashes = []
    for base, flips in picks:
        value = bases[base % len(bases)]
        for bit in flips:
            value ^= 1 << bit
        hashes.append(value)
    expected: dict[int, int] = {}
    for place, value in enumerate(hashes):
        kept = [one for one in range(place) if one not in expected]
        close = [one for one in kept if (hashes[one] ^ value).bit_count() <= limit]
        if close:
            expected[place] = close[0]
    assert near_duplicates(hashes, limit) == expected


def test_pictures_without_a_hash_resemble_nothing() -> None:
    assert near_duplicates([None, 5, None, 4], 1) == {3: 1}
    assert near_duplicates([], 4) == {}


@pytest.mark.slow
def test_a_hundred_thousand_are_compared_in_seconds() -> None:
    values = np.random.default_rng(0).integers(0, 2**63, 100_000, dtype=np.uint64)
    values[50_000:50_100] = values[:100] ^ np.uint64(0b1011)
    begin = time.process_time()
    found = near_duplicates(values.tolist(), 4)
    assert len(found) == 100
    assert time.process_time() - begin < 20.0
