"""What becomes of an image's size: properties of every crop, and what SDXL is told of it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.datasets.sizing import (
    extent_of,
    fit,
    is_aspect_outside,
    is_too_small,
    micro_conditions,
    place_crop,
)
from diptych.datasets.spec import CropSpec, SizeSpec
from diptych.embeddings.key import Preprocessing
from support.planned import digest_of

SIDES = st.integers(16, 8000)
EDGES = st.integers(1, 32).map(lambda number: 64 * number)
STYLES = st.sampled_from(["centre", "random", "corner"])


def column(*sizes: tuple[int, int]) -> np.ndarray[tuple[int, int], np.dtype[np.int32]]:
    return np.array(sizes, dtype=np.int32).reshape(-1, 2)


@given(width=SIDES, height=SIDES, wide=EDGES, high=EDGES)
def test_an_image_just_covers_its_bucket_and_keeps_its_aspect(
    width: int, height: int, wide: int, high: int
) -> None:
    fitted = fit(column((width, height)), column((wide, high)), SizeSpec(), CropSpec())
    resized, scale = fitted.resized[0].tolist(), fitted.scale[0]
    assert resized[0] >= wide
    assert resized[1] >= high
    assert wide == resized[0] or high == resized[1]
    assert abs(resized[0] - width * scale) <= 1
    assert abs(resized[1] - height * scale) <= 1
    assert fitted.cut[0] == pytest.approx(1 - wide * high / (resized[0] * resized[1]))


@given(
    width=SIDES,
    height=SIDES,
    wide=EDGES,
    high=EDGES,
    style=STYLES,
    epoch=st.integers(0, 5),
    repeat=st.integers(0, 3),
)
def test_every_crop_lies_inside(
    width: int, height: int, wide: int, high: int, style: str, epoch: int, repeat: int
) -> None:
    crop = CropSpec(style=style)  # type: ignore[arg-type]
    resized = fit(column((width, height)), column((wide, high)), SizeSpec(), crop).resized[0]
    (left, top, *size), _ = place_crop(
        (int(resized[0]), int(resized[1])),
        (wide, high),
        crop,
        image=digest_of("x"),
        epoch=epoch,
        repeat=repeat,
    )
    assert size == [wide, high]
    assert 0 <= left <= resized[0] - wide
    assert 0 <= top <= resized[1] - high


def test_large_images_are_brought_down_before_they_are_cropped() -> None:
    size = SizeSpec(maximum=1536.0, target=1280.0)
    found = fit(column((4096, 4096), (1500, 1500)), column(*[(1024, 1024)] * 2), size, CropSpec())
    assert found.resized.tolist() == [[1280, 1280], [1024, 1024]]
    assert found.cut.tolist() == pytest.approx([1 - (1024 / 1280) ** 2, 0.0])


@pytest.mark.parametrize(
    ("size", "resized"),
    [
        (SizeSpec(resolution=1.0, unit="megapixels", maximum=4.0, target=2.0), [2000, 1000]),
        (SizeSpec(unit="shorter_edge", maximum=1200.0, target=1100.0), [2200, 1100]),
    ],
)
def test_a_target_is_in_the_unit_of_the_size(size: SizeSpec, resized: list[int]) -> None:
    found = fit(column((4000, 2000)), column((1024, 1024)), size, CropSpec()).resized
    assert (found - np.array([resized])).__abs__().max() <= 48
    assert found[0, 0] == 2 * found[0, 1]


def test_preserving_stretches_and_cuts_nothing() -> None:
    found = fit(column((1000, 700)), column((1216, 832)), SizeSpec(), CropSpec(style="preserve"))
    assert (found.resized.tolist(), found.cut.tolist()) == ([[1216, 832]], [0.0])
    assert found.scale[0] == pytest.approx(1.216)


@pytest.mark.parametrize(
    ("unit", "extent"), [("pixel_area", 1000.0), ("shorter_edge", 500.0), ("megapixels", 1.0)]
)
def test_an_extent_is_in_the_unit_of_the_size(unit: str, extent: float) -> None:
    size = SizeSpec(resolution=1.0, unit=unit)  # type: ignore[arg-type]
    assert extent_of(column((2000, 500)), size).tolist() == pytest.approx([extent])


def test_limits_are_inclusive() -> None:
    sizes = column((1024, 1024), (1023, 1024), (512, 1024), (511, 1024), (2048, 1024))
    size = SizeSpec(minimum=1024.0, minimum_aspect=0.5, maximum_aspect=1.5)
    assert is_too_small(sizes, size).tolist() == [False, True, True, True, False]
    assert is_aspect_outside(sizes, size).tolist() == [False, False, False, True, True]


def test_a_random_crop_is_named_by_seed_epoch_repeat_and_image() -> None:
    def crop(seed: int = 0, epoch: int = 1, repeat: int = 0, image: str = "a") -> object:
        return place_crop(
            (4000, 3000),
            (1024, 1024),
            CropSpec(style="random", seed=seed),
            image=digest_of(image),
            epoch=epoch,
            repeat=repeat,
        )

    assert crop() == crop()
    found = {crop(), crop(seed=1), crop(epoch=2), crop(repeat=1), crop(image="b")}
    assert len(found) == 5


def test_a_corner_is_the_top_left() -> None:
    found = place_crop(
        (200, 100), (64, 64), CropSpec(style="corner"), image=digest_of("a"), epoch=1, repeat=0
    )
    assert found == ((0, 0, 64, 64), False)


def test_flips_come_as_often_as_wanted() -> None:
    crop = CropSpec(flip_probability=0.25)
    found = [
        place_crop((64, 64), (64, 64), crop, image=digest_of(number), epoch=1, repeat=0)[1]
        for number in range(2000)
    ]
    assert 0.22 < sum(found) / 2000 < 0.28


def test_the_network_is_told_of_the_file_the_cut_and_the_bucket() -> None:
    seen = Preprocessing(resized=(1500, 1024), crop=(100, 20, 1024, 1000))
    found = micro_conditions((3000, 2048), seen)
    assert found.original_size == (2048, 3000)
    assert found.crop_top_left == (20, 100)
    assert found.target_size == (1000, 1024)


def test_a_flipped_image_lost_its_other_side() -> None:
    seen = Preprocessing(resized=(1500, 1024), crop=(100, 20, 1024, 1000), is_flipped=True)
    assert micro_conditions((3000, 2048), seen).crop_top_left == (20, 376)
