"""Sizes and crops mean what they meant, to the bucket."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.datasets.simpletuner.sizes import crop_of, own_sizes, size_of
from support.simpletuner_options import Entry


def size(defaults: dict[str, Any] | None = None, /, **values: Any) -> dict[str, Any]:
    return size_of(Entry(defaults, **values).options)[0]


def test_the_defaults_are_simpletuner_s() -> None:
    assert size_of(Entry().options) == ({"unit": "pixel_area", "resolution": 1024.0}, {})


@pytest.mark.parametrize(
    ("kind", "resolution", "expected"),
    [
        ("pixel_area", 1024, ("pixel_area", 1024.0)),
        ("pixel_area", 1000, ("pixel_area", 1024.0)),
        ("pixel_area", "512", ("pixel_area", 512.0)),
        ("area", 1.0, ("megapixels", 1.048576)),
        ("area", 0.25, ("megapixels", 0.262144)),
        ("area", 0.7, ("megapixels", 0.692224)),
        ("pixel", 768, ("shorter_edge", 768.0)),
    ],
)
def test_a_resolution_keeps_its_unit_and_is_rounded_to_an_edge(
    kind: str, resolution: object, expected: tuple[str, float]
) -> None:
    found = size(resolution_type=kind, resolution=resolution)
    assert (found["unit"], found["resolution"]) == expected


@given(area=st.floats(0.1, 4.5))
def test_an_area_s_edge_is_the_one_simpletuner_rounds_to(area: float) -> None:
    edge = max(round(int(math.sqrt(area * 1e6)) / 64), 1) * 64
    assert size(resolution_type="area", resolution=area)["resolution"] == edge * edge / 1e6


def test_squares_that_were_larger_there_are_named() -> None:
    entry = Entry(resolution_type="area", resolution=0.5)
    size_of(entry.options)
    assert entry.said()["resolution"] == "differs"
    assert entry.detail("resolution") == "around 704x704 as there, where squares alone were 768x768"


def test_limits_are_in_the_same_unit() -> None:
    found = size(
        resolution_type="area",
        resolution=1.0,
        minimum_image_size=0.75,
        minimum_aspect_ratio=0.5,
        maximum_aspect_ratio=30,
    )
    assert (found["minimum"], found["minimum_aspect"], found["maximum_aspect"]) == (0.75, 0.5, 20.0)


def test_a_minimum_of_nothing_is_none() -> None:
    assert "minimum" not in size(minimum_image_size=0)


def test_downsampling_needs_both_sizes_and_a_crop() -> None:
    both = {"maximum_image_size": 2048, "target_downsample_size": 1280}
    assert {"maximum": 2048.0, "target": 1280.0}.items() <= size(crop=True, **both).items()
    for values in ({"crop": False, **both}, {"crop": True, "maximum_image_size": 2048}):
        entry = Entry(**values)
        assert "maximum" not in size_of(entry.options)[0]
        assert entry.said()["maximum_image_size"] == "ignored"


def test_a_target_is_never_below_the_resolution_nor_above_the_maximum() -> None:
    found = size(
        crop=True,
        resolution_type="area",
        resolution=1.0,
        maximum_image_size=1.0,
        target_downsample_size=1.0,
    )
    assert found["target"] == found["maximum"] == found["resolution"] == 1.048576


def test_a_threshold_of_enlarging_is_heeded_where_aspects_are_chosen() -> None:
    chosen = {"crop": True, "crop_aspect": "random", "crop_aspect_buckets": [1.0]}
    assert size(max_upscale_threshold=0.2, **chosen)["max_upscale"] == 1.2
    entry = Entry({"max_upscale_threshold": 0.2}, crop=True, crop_aspect="square")
    assert "max_upscale" not in size_of(entry.options)[0]
    assert entry.said()["max_upscale_threshold"] == "ignored"


def test_edges_and_decimals_of_buckets_are_global() -> None:
    defaults = {"aspect_bucket_alignment": 32, "aspect_bucket_rounding": 1}
    assert size_of(Entry(defaults).options)[1] == {"edge": 32, "aspect_decimals": 1}
    entry = Entry({"aspect_bucket_alignment": 48})
    assert size_of(entry.options)[1] == {}
    assert entry.said()["aspect_bucket_alignment"] == "unsupported"


def crop(**values: Any) -> dict[str, Any]:
    return crop_of(Entry(**values).options)


def test_a_crop_that_is_off_cuts_what_rounding_leaves() -> None:
    assert crop() == crop(crop=False, crop_style="random", crop_aspect="square") == {}
    assert crop(crop=False, crop_style="corner") == {"style": "corner"}


def test_a_crop_s_defaults_are_simpletuner_s() -> None:
    assert crop(crop=True) == {"style": "random", "aspect": "square"}


@pytest.mark.parametrize(
    ("style", "ours"), [("center", "centre"), ("centre", "centre"), ("corner", "corner")]
)
def test_a_style_has_its_counterpart(style: str, ours: str) -> None:
    assert crop(crop=True, crop_style=style)["style"] == ours


def test_faces_are_not_looked_for() -> None:
    entry = Entry(crop=True, crop_style="face")
    assert crop_of(entry.options)["style"] == "random"
    assert entry.said()["crop_style"] == "unsupported"


def test_a_random_crop_that_never_changes_is_named() -> None:
    entry = Entry(crop=True, crop_style="random", vae_cache_clear_each_epoch=False)
    crop_of(entry.options)
    assert entry.said()["vae_cache_clear_each_epoch"] == "unsupported"


def test_aspects_may_have_weights() -> None:
    weighted = [{"aspect": 1.0, "weight": 0.5}, {"aspect": 0.5, "weight": 0.25}]
    buckets = [*weighted, {"aspect": 2.0, "weight": 0.25}]
    found = crop(crop=True, crop_aspect="random", crop_aspect_buckets=buckets)
    assert found["aspects"] == [1.0, 1.0, 0.5, 2.0]


def test_weights_that_no_list_spells_are_named() -> None:
    buckets = [{"aspect": 1.0, "weight": 0.501}, {"aspect": 0.5, "weight": 0.499}]
    entry = Entry(crop=True, crop_aspect="random", crop_aspect_buckets=buckets)
    assert crop_of(entry.options)["aspects"] == [1.0, 0.5]
    assert entry.said()["crop_aspect_buckets"] == "unsupported"


def test_a_map_of_aspects_is_a_list_of_sizes() -> None:
    found = own_sizes({"1.0": [1024, 1024], "0.5": [768, 1536], "0.51": [768, 1536]})
    assert found == {"edge": 64, "sizes": [[768, 1536], [1024, 1024]]}
    assert own_sizes({"1.0": [520, 512]})["edge"] == 8


@pytest.mark.parametrize("pair", [[1], "x", [1.5, 2], [1, 2]])
def test_a_map_of_something_else_is_refused(pair: object) -> None:
    with pytest.raises(ValueError, match=r"no width and height|no multiples of 8"):
        own_sizes({"1.0": pair})
