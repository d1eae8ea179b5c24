"""Buckets are multiples of an edge near the area, and each image takes the one that cuts least."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.datasets.buckets import assign, bucket_sizes, merge_small, nearest
from diptych.datasets.sizing import aspects_of, fit
from diptych.datasets.spec import BucketsSpec, CropSpec, SamplingSpec, SizeSpec
from support.planned import digest_of, spec_of

RESOLUTIONS = st.floats(256, 2048)
DECIMALS = st.sampled_from([None, 1, 2, 3])
EDGES = st.sampled_from([8, 32, 64])


@settings(max_examples=40, deadline=None)
@given(resolution=RESOLUTIONS, decimals=DECIMALS, edge=EDGES)
def test_sizes_are_multiples_of_the_edge_near_the_area(
    resolution: float, decimals: int | None, edge: int
) -> None:
    buckets = BucketsSpec(edge=edge, aspect_decimals=decimals)  # type: ignore[arg-type]
    sizes = bucket_sizes(SizeSpec(resolution=resolution), buckets)
    assert not (sizes % edge).any()
    low, high = (sizes - edge / 2).prod(axis=1), (sizes + edge / 2).prod(axis=1)
    is_smallest = (sizes == edge).any(axis=1)
    assert ((low <= resolution**2 + 1e-6) | is_smallest).all()
    assert (high >= resolution**2 - 1e-6).all()
    assert (np.diff(aspects_of(sizes)) > 0).all()


@settings(max_examples=40, deadline=None)
@given(resolution=RESOLUTIONS, decimals=DECIMALS)
def test_a_shorter_edge_is_the_resolution_s(resolution: float, decimals: int | None) -> None:
    size = SizeSpec(resolution=resolution, unit="shorter_edge")
    sizes = bucket_sizes(size, BucketsSpec(aspect_decimals=decimals))
    assert set(sizes.min(axis=1).tolist()) == {max(round(resolution / 64), 1) * 64}


@settings(max_examples=60, deadline=None)
@given(
    sides=st.lists(st.tuples(st.integers(64, 6000), st.integers(64, 6000)), min_size=1),
    decimals=DECIMALS,
)
def test_no_other_bucket_cuts_less(sides: list[tuple[int, int]], decimals: int | None) -> None:
    spec = spec_of(buckets=BucketsSpec(aspect_decimals=decimals))
    sizes = np.array(sides, dtype=np.int32)
    found = assign(sizes, (), spec)
    ratio = aspects_of(sizes)[:, None] / aspects_of(found.sizes)
    cut = 1 - np.minimum(ratio, 1 / ratio)
    own = cut[np.arange(len(sizes)), found.bucket]
    assert (own <= cut.min(axis=1) + 1e-12).all()


def test_the_sizes_of_a_megapixel_are_those_that_sdxl_was_trained_on() -> None:
    found = {tuple(size) for size in bucket_sizes(SizeSpec(), BucketsSpec()).tolist()}
    trained = {(1024, 1024), (1152, 896), (896, 1152), (1216, 832), (832, 1216)}
    assert trained | {(1344, 768), (768, 1344), (1536, 640), (640, 1536)} <= found


def test_megapixels_and_pixels_of_one_area_give_the_same_sizes() -> None:
    area = SizeSpec(resolution=1.048576, unit="megapixels")
    assert (bucket_sizes(area, BucketsSpec()) == bucket_sizes(SizeSpec(), BucketsSpec())).all()


def test_own_sizes_are_all_there_is() -> None:
    own = BucketsSpec(sizes=((1024, 1024), (512, 512), (832, 1216)))
    sizes = bucket_sizes(SizeSpec(resolution=1024.0), own)
    assert sizes.tolist() == [[832, 1216], [1024, 1024]]
    found = assign(np.array([[700, 1000], [9000, 100]], dtype=np.int32), (), spec_of(buckets=own))
    assert found.sizes[found.bucket].tolist() == [[832, 1216], [1024, 1024]]


def test_the_nearest_is_nearest_in_ratio() -> None:
    sizes = np.array([[64, 128], [64, 64], [128, 64]], dtype=np.int32)
    assert nearest(np.array([0.1, 0.7, 0.72, 1.4, 1.42, 9.0]), sizes).tolist() == [0, 0, 1, 1, 2, 2]


def aspects(crop: CropSpec, sizes: list[tuple[int, int]], size: SizeSpec | None = None) -> object:
    spec = spec_of(crop=crop, size=size or SizeSpec())
    images = [digest_of(number) for number in range(len(sizes))]
    found = assign(np.array(sizes, dtype=np.int32), images, spec)
    return [None if one < 0 else tuple(found.sizes[one].tolist()) for one in found.bucket.tolist()]


def test_a_square_crop_is_square_whatever_the_image() -> None:
    found = aspects(CropSpec(aspect="square"), [(400, 3000), (3000, 400)])
    assert found == [(1024, 1024)] * 2


def test_the_closest_of_the_aspects_is_taken() -> None:
    crop = CropSpec(aspect="closest", aspects=(1.0, 0.5))
    found = aspects(crop, [(1000, 1300), (1000, 1500), (3000, 1000)])
    assert found == [(1024, 1024), (704, 1408), (1024, 1024)]


def test_random_aspects_are_drawn_by_seed_and_image() -> None:
    sizes = [(2000, 2000)] * 60
    first = CropSpec(aspect="random", aspects=(1.0, 0.5))
    found = aspects(first, sizes)
    assert found == aspects(first, sizes)
    assert found != aspects(CropSpec(aspect="random", aspects=(1.0, 0.5), seed=1), sizes)
    assert set(found) == {(1024, 1024), (704, 1408)}  # type: ignore[call-overload]


@pytest.mark.parametrize("aspect", ["closest", "random"])
def test_aspects_that_would_enlarge_too_much_are_not_taken(aspect: str) -> None:
    crop = CropSpec(aspect=aspect, aspects=(1.0, 0.5))  # type: ignore[arg-type]
    found = aspects(crop, [(900, 900), (400, 400)], SizeSpec(max_upscale=1.2))
    assert found == [(1024, 1024), None]


def test_an_image_beyond_the_limit_has_no_bucket() -> None:
    for crop in (CropSpec(), CropSpec(aspect="square")):
        assert aspects(crop, [(512, 512)], SizeSpec(max_upscale=1.9)) == [None]
        assert aspects(crop, [(512, 512)], SizeSpec(max_upscale=2.0)) == [(1024, 1024)]


def test_a_thread_of_a_picture_is_not_blown_up_to_cover() -> None:
    assert aspects(CropSpec(), [(10, 30_000), (10, 150)]) != [None, None]
    assert aspects(CropSpec(), [(10, 30_000)]) == [None]


@settings(max_examples=60, deadline=None)
@given(
    sides=st.lists(
        st.tuples(st.integers(300, 3000), st.integers(300, 3000)), min_size=1, max_size=40
    ),
    batch_size=st.integers(1, 9),
    limit=st.sampled_from([None, 2.0, 8.0]),
)
def test_merging_loses_nobody_and_enlarges_nobody_too_much(
    sides: list[tuple[int, int]], batch_size: int, limit: float | None
) -> None:
    spec = spec_of(size=SizeSpec(max_upscale=limit))
    sizes = np.array(sides, dtype=np.int32)
    first = assign(sizes, (), spec)
    sizes = sizes[first.bucket >= 0]
    first = assign(sizes, (), spec)
    merged, before = merge_small(first, sizes, spec, batch_size=batch_size)
    assert (before == first.bucket).all()
    assert (merged.bucket >= 0).all()
    counts = np.bincount(merged.bucket)
    if limit is None:
        assert (counts[counts > 0] >= batch_size).all() or (counts > 0).sum() == 1
    else:
        fitted = fit(sizes, merged.sizes[merged.bucket], spec.size, spec.crop)
        assert (fitted.scale <= limit).all() or not len(sizes)


def test_a_small_bucket_joins_the_nearest_aspect() -> None:
    sizes = np.array([[1024, 1024]] * 4 + [[1000, 1300]] * 4 + [[1216, 832]], dtype=np.int32)
    spec = spec_of()
    merged, _ = merge_small(assign(sizes, (), spec), sizes, spec, batch_size=4)
    assert merged.sizes[merged.bucket[-1]].tolist() == [1024, 1024]


def test_repeats_count_towards_a_batch_and_filling_merges_nothing() -> None:
    sizes = np.array([[1024, 1024]] * 4 + [[1216, 832]] * 2, dtype=np.int32)
    for spec in (
        spec_of(sampling=SamplingSpec(repeats=2)),
        spec_of(buckets=BucketsSpec(small="fill")),
    ):
        merged, before = merge_small(assign(sizes, (), spec), sizes, spec, batch_size=4)
        assert (merged.bucket == before).all()
