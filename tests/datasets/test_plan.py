"""A plan says of every image what becomes of it, and leaves none out in silence."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.datasets.index import Index
from diptych.datasets.plan import Plan, make_plan, make_plans
from diptych.datasets.spec import (
    BucketsSpec,
    CaptionsSpec,
    CropSpec,
    Manifest,
    SamplingSpec,
    SizeSpec,
)
from support.planned import index_of, plan_of, spec_of

SIDES = st.lists(st.tuples(st.integers(64, 4000), st.integers(64, 4000)), max_size=30)
CROPS = st.sampled_from(
    [
        CropSpec(),
        CropSpec(style="random"),
        CropSpec(style="preserve"),
        CropSpec(aspect="square", style="corner"),
        CropSpec(aspect="closest", aspects=(1.0, 1.5)),
        CropSpec(aspect="random", aspects=(1.0, 1.5), flip_probability=0.5),
    ]
)
SIZES = st.sampled_from(
    [
        SizeSpec(),
        SizeSpec(resolution=512.0, minimum=300.0, max_upscale=1.5),
        SizeSpec(resolution=0.5, unit="megapixels", maximum=2.0, target=1.0),
        SizeSpec(resolution=768.0, unit="shorter_edge", minimum_aspect=0.5, maximum_aspect=2.0),
    ]
)


def reasons(plan: Plan) -> dict[str, int]:
    return dict(Counter(one.reason for one in plan.findings))


@settings(max_examples=80, deadline=None)
@given(sides=SIDES, size=SIZES, crop=CROPS, batch_size=st.integers(1, 8))
def test_every_image_is_used_or_left_out_with_a_reason(
    sides: list[tuple[int, int]], size: SizeSpec, crop: CropSpec, batch_size: int
) -> None:
    plan = plan_of(sides, batch_size=batch_size, size=size, crop=crop)
    skipped = [one.place for one in plan.findings if one.action == "skipped"]
    used = [one.entry.place for one in plan.items]
    assert sorted(skipped + used) == sorted(f"{number}.png" for number in range(len(sides)))
    assert sorted(row for one in plan.buckets for row in one.rows.tolist()) == list(
        range(len(plan))
    )


@settings(max_examples=80, deadline=None)
@given(sides=SIDES, size=SIZES, crop=CROPS, epoch=st.integers(0, 3))
def test_every_preprocessing_can_be_done_and_fills_its_bucket(
    sides: list[tuple[int, int]], size: SizeSpec, crop: CropSpec, epoch: int
) -> None:
    plan = plan_of(sides, batch_size=2, size=size, crop=crop)
    for row, item in enumerate(plan.items):
        seen = plan.preprocessing(row, epoch=epoch)
        left, top, width, height = seen.crop
        assert (width, height) == item.bucket
        assert min(left, top) >= 0
        assert left + width <= seen.resized[0]
        assert top + height <= seen.resized[1]
        assert (width % 64, height % 64) == (0, 0)


@settings(max_examples=80, deadline=None)
@given(sides=SIDES, size=SIZES, crop=CROPS)
def test_whoever_is_enlarged_or_cut_is_reported(
    sides: list[tuple[int, int]], size: SizeSpec, crop: CropSpec
) -> None:
    plan = plan_of(sides, batch_size=3, size=size, crop=crop)
    found = {(one.place, one.reason) for one in plan.findings}
    for item in plan.items:
        where, (wide, high) = item.entry.place, item.resized
        is_larger = wide > item.entry.width or high > item.entry.height
        assert not is_larger or (where, "enlarged") in found
        assert ((where, "cut_by_crop") in found) == (item.resized != item.bucket)
        limit = size.max_upscale or 100.0
        assert max(wide / item.entry.width, high / item.entry.height) <= limit + 0.5 / 64


def test_reasons_say_what_was_and_what_was_expected() -> None:
    size = SizeSpec(minimum=512.0, minimum_aspect=0.5, max_upscale=1.5)
    sides = [(300, 300), (1000, 4000), (600, 600), (2000, 1500)]
    found = {one.place: one for one in plan_of(sides, size=size).findings}
    assert (found["0.png"].reason, found["0.png"].action) == ("size_too_small", "skipped")
    assert found["0.png"].detail == "300x300, 300 pixel_area; expected at least 512"
    assert found["1.png"].detail == "1000x4000, aspect 0.250; expected at least 0.5"
    assert found["2.png"].detail == "600x600; the limit is 1.5 times"
    assert found["3.png"].detail == "2000x1500 to 1216x896: 1.8% cut away"


def test_a_thread_of_a_picture_is_left_out_with_its_reason() -> None:
    (found,) = plan_of([(10, 30_000)]).findings
    assert (found.reason, found.action) == ("image_too_large", "skipped")
    assert found.detail == "10x30000 would become 256x768000 before its crop"


def test_small_buckets_are_merged_or_filled_and_say_so() -> None:
    sides = [(1024, 1024)] * 4 + [(1216, 832)]
    merged = plan_of(sides, batch_size=4)
    assert [(len(one.rows), one.num_merged, one.num_filled) for one in merged.buckets] == [
        (5, 1, 3)
    ]
    assert reasons(merged)["bucket_merged"] == 1
    filled = plan_of(sides, batch_size=4, buckets=BucketsSpec(small="fill"))
    assert [(len(one.rows), one.num_filled) for one in filled.buckets] == [(4, 0), (1, 3)]
    (found,) = [one for one in filled.findings if one.reason == "bucket_filled"]
    assert (found.place, found.action) == ("bucket 1216x832", "repeated")


def test_repeats_are_reported() -> None:
    plan = plan_of([(1024, 1024)] * 2, sampling=SamplingSpec(repeats=5))
    assert reasons(plan) == {"repeats": 2}


def test_evaluation_sets_are_neither_merged_nor_filled() -> None:
    plan = plan_of([(1024, 1024)] * 4 + [(1216, 832)], batch_size=4, kind="eval")
    assert (len(plan.buckets), reasons(plan)) == (2, {})


def test_a_dataset_s_batch_size_comes_before_the_job_s() -> None:
    plan = plan_of([(64, 64)], batch_size=4, sampling=SamplingSpec(batch_size=2))
    assert (plan.batch_size, plan.buckets[0].num_filled) == (2, 1)


def test_an_empty_dataset_has_a_plan() -> None:
    plan = plan_of([])
    assert (len(plan), plan.buckets, plan.findings) == (0, (), ())


def test_what_is_required_is_each_image_once_where_epochs_do_not_differ() -> None:
    plan = plan_of([(1500, 1000)] * 3, sampling=SamplingSpec(repeats=4))
    found = list(plan.required_images(range(1, 9)))
    assert [row for row, _ in found] == [0, 1, 2]
    assert all(seen == plan.preprocessing(row, epoch=7, repeat=3) for row, seen in found)


def test_what_is_required_is_every_crop_that_epochs_draw() -> None:
    crop = CropSpec(style="random")
    plan = plan_of([(1500, 1000)] * 3, crop=crop, sampling=SamplingSpec(repeats=2))
    found = set(plan.required_images([1, 2]))
    assert found == {
        (row, plan.preprocessing(row, epoch=epoch, repeat=repeat))
        for row in range(3)
        for epoch in (1, 2)
        for repeat in (0, 1)
    }


@pytest.mark.parametrize(("dropout", "more"), [(0.0, set()), (0.1, {""})])
def test_prompts_that_are_required_are_all_captions(dropout: float, more: set[str]) -> None:
    plan = plan_of([(64, 64)] * 2, captions=CaptionsSpec(dropout=dropout))
    assert set(plan.required_prompts()) == {"0 a", "0 b", "1 a", "1 b"} | more


def test_nothing_is_required_of_images_that_are_left_out() -> None:
    plan = plan_of([(64, 64), (512, 512)], size=SizeSpec(minimum=100.0))
    assert len(list(plan.required_images([1]))) == 1
    assert set(plan.required_prompts()) == {"1 a", "1 b"}


def test_resampling_is_the_spec_s() -> None:
    plan = plan_of([(64, 64)], size=SizeSpec(resample="bicubic"))
    assert plan.preprocessing(0, epoch=1).resample == "bicubic"


def test_another_spec_may_plan_an_index() -> None:
    spec = spec_of()
    index = index_of(spec, [(900, 900)])
    other = replace(spec, size=SizeSpec(resolution=512.0))
    assert [next(make_plan(index, one).items).bucket for one in (spec, other)] == [
        (1024, 1024),
        (512, 512),
    ]


def test_all_datasets_of_an_index_are_planned() -> None:
    indices = [index_of(spec_of(id=name), [(64, 64)]) for name in ("a", "b")]
    manifest = Manifest(datasets=tuple(one.spec for one in indices))
    plans = make_plans(Index.of(manifest, indices), batch_size=2)
    assert {name: (len(one), one.batch_size) for name, one in plans.items()} == {
        "a": (1, 2),
        "b": (1, 2),
    }
