"""One stream of batches: sharded without overlap, gone on with from anywhere, nobody left out."""

from collections import Counter
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.datasets.plan import Plan
from diptych.datasets.sampling import (
    Batch,
    Position,
    Sampler,
    SamplerConfig,
    Step,
    held_out,
    mask_preprocessing,
)
from diptych.datasets.source_spec import FolderSource
from diptych.datasets.spec import CaptionsSpec, CropSpec, MasksSpec, SamplingSpec
from diptych.embeddings.key import Preprocessing
from diptych.errors import DatasetInvalid
from support.planned import plan_of

SQUARE, WIDE = (1024, 1024), (1344, 768)


def plans_of(*plans: Plan) -> dict[str, Plan]:
    return {one.spec.id: one for one in plans}


def two_sets() -> dict[str, Plan]:
    return plans_of(
        plan_of([SQUARE] * 7 + [WIDE] * 6, id="a", batch_size=2),
        plan_of([SQUARE] * 5, id="b", batch_size=2, kind="regularisation"),
    )


def steps(plans: dict[str, Plan], start: Position | None = None, **config: object) -> list[Step]:
    return list(Sampler(plans, SamplerConfig(**config)).steps(start))  # type: ignore[arg-type]


def images(found: list[Step]) -> Counter[tuple[str, str, int]]:
    return Counter(
        (batch.dataset, sample.entry.place, sample.repeat)
        for step in found
        for batch in step.batches
        for sample in batch.samples
    )


def batches(found: list[Step]) -> list[Batch]:
    return [batch for step in found for batch in step.batches]


def test_an_epoch_sees_every_image_of_every_set() -> None:
    found = images(steps(two_sets(), num_epochs=1))
    assert len(found) == 7 + 6 + 5
    assert found.total() == 8 + 6 + 6


@settings(max_examples=25, deadline=None)
@given(num_ranks=st.integers(1, 4), accumulated=st.integers(1, 3), epochs=st.integers(1, 3))
def test_ranks_share_out_the_order_of_one(num_ranks: int, accumulated: int, epochs: int) -> None:
    alone = batches(steps(two_sets(), num_epochs=epochs))
    shared = [
        steps(
            two_sets(),
            num_epochs=epochs,
            rank=rank,
            num_ranks=num_ranks,
            num_accumulated=accumulated,
        )
        for rank in range(num_ranks)
    ]
    assert len({len(one) for one in shared}) == 1
    woven = []
    for each in zip(*shared, strict=True):
        assert {len(step.batches) for step in each} == {accumulated}
        for number in range(accumulated):
            woven += [step.batches[number] for step in each]
    assert woven[: len(alone)] == alone
    assert len(woven) - len(alone) < num_ranks * accumulated


@settings(max_examples=25, deadline=None)
@given(stop=st.integers(0, 12), accumulated=st.integers(1, 3))
def test_a_run_goes_on_exactly_where_it_stood(stop: int, accumulated: int) -> None:
    whole = steps(two_sets(), num_epochs=2, num_accumulated=accumulated)
    stop = min(stop, len(whole))
    position = whole[stop - 1].after if stop else None
    rest = steps(two_sets(), position, num_epochs=2, num_accumulated=accumulated)
    assert rest == whole[stop:]


def test_a_run_may_go_on_with_another_number_of_ranks() -> None:
    whole = batches(steps(two_sets(), num_epochs=2))
    first = list(islice(Sampler(two_sets(), SamplerConfig()).steps(), 4))
    rest = [
        steps(two_sets(), first[-1].after, num_epochs=2, rank=rank, num_ranks=2) for rank in (0, 1)
    ]
    woven = [one.batches[0] for pair in zip(*rest, strict=True) for one in pair]
    assert woven[: len(whole) - 4] == whole[4:]


def test_steps_are_counted_over_epochs() -> None:
    found = steps(two_sets(), num_epochs=3, num_accumulated=4)
    assert [one.number for one in found] == list(range(1, len(found) + 1))
    assert [one.epoch for one in found] == sorted(one.epoch for one in found)


def test_a_run_without_an_end_goes_on() -> None:
    found = list(islice(Sampler(two_sets(), SamplerConfig()).steps(), 40))
    assert found[-1].epoch == 4


def test_a_run_ends_where_no_set_is_active_and_its_last_step_is_whole() -> None:
    plans = plans_of(plan_of([SQUARE] * 3, sampling=SamplingSpec(end_epoch=2)))
    found = steps(plans, num_accumulated=4)
    assert [len(one.batches) for one in found] == [4, 4]
    assert len(images(found)) == 3


def test_an_epoch_without_a_set_is_passed_over() -> None:
    plans = plans_of(
        plan_of([SQUARE] * 2, id="a", sampling=SamplingSpec(end_epoch=1)),
        plan_of([SQUARE] * 2, id="b", sampling=SamplingSpec(start_epoch=4)),
    )
    assert [one.epoch for one in steps(plans, num_epochs=4)] == [1, 1, 4, 4]


@pytest.mark.parametrize(
    "plan",
    [
        plan_of([]),
        plan_of([SQUARE], kind="eval"),
        plan_of([SQUARE], sampling=SamplingSpec(start_epoch=2)),
        plan_of([SQUARE], sampling=SamplingSpec(start_step=2)),
    ],
)
def test_a_run_that_begins_with_nothing_is_refused(plan: Plan) -> None:
    with pytest.raises(DatasetInvalid, match="no dataset has images to train on in epoch 1"):
        Sampler(plans_of(plan), SamplerConfig())


def test_batches_are_of_one_bucket_and_say_what_they_are() -> None:
    for batch in batches(steps(two_sets(), num_epochs=1)):
        assert {one.preprocessing.crop[2:] for one in batch.samples} == {
            (batch.width, batch.height)
        }
        assert {one.conditions.target_size for one in batch.samples} == {
            (batch.height, batch.width)
        }
        assert batch.is_regularisation == (batch.dataset == "b")


def test_a_run_asks_for_nothing_that_was_not_required() -> None:
    plan = plan_of(
        [(1500, 1000)] * 5,
        batch_size=4,
        crop=CropSpec(style="random", flip_probability=0.5),
        sampling=SamplingSpec(repeats=2),
        captions=CaptionsSpec(dropout=0.5),
    )
    known = {(plan.item(row).entry.image, seen) for row, seen in plan.required_images([1, 2])}
    prompts = set(plan.required_prompts())
    samples = [
        one for batch in batches(steps(plans_of(plan), num_epochs=2)) for one in batch.samples
    ]
    assert {(one.entry.image, one.preprocessing) for one in samples} == known
    assert {one.caption for one in samples} <= prompts
    assert "" in {one.caption for one in samples}


def test_captions_are_drawn_anew_each_epoch() -> None:
    plan = plan_of([SQUARE] * 12)
    found = [
        {one.entry.place: one.caption for batch in step.batches for one in batch.samples}
        for step in steps(plans_of(plan), num_epochs=2, num_accumulated=12)
    ]
    assert set(found[0]) == set(found[1])
    assert found[0] != found[1]


def test_masks_are_used_as_often_as_wanted() -> None:
    masks = MasksSpec(source=FolderSource(path="/m"), probability=0.5)
    plan = plan_of([SQUARE] * 400, masks=masks)
    used = [one.uses_masks for one in batches(steps(plans_of(plan), num_epochs=1))]
    assert 150 < sum(used) < 250
    assert not any(one.uses_masks for one in batches(steps(two_sets(), num_epochs=1)))


def test_a_mask_goes_through_its_image_s_geometry() -> None:
    seen = Preprocessing(resized=(100, 80), crop=(1, 2, 64, 64), is_flipped=True)
    mask = mask_preprocessing(seen)
    assert (mask.resized, mask.crop, mask.is_flipped) == ((100, 80), (1, 2, 64, 64), True)
    assert (mask.resample, mask.colour) == ("area", "ignore")


def test_an_evaluation_set_is_seen_once_and_never_otherwise() -> None:
    crop = CropSpec(style="random")
    plan = plan_of([(1500, 1000)] * 5 + [SQUARE] * 2, kind="eval", crop=crop)
    found = list(held_out(plan, batch_size=4))
    assert found == list(held_out(plan, batch_size=4))
    assert [len(one.samples) for one in found] == [2, 4, 1]
    assert {one.caption[-1] for batch in found for one in batch.samples} == {"a"}
