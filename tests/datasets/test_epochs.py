"""An epoch sees every image as often as it should, in an order that its seed names."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.datasets.epochs import EpochOrder, dataset_order, epoch_order, is_active
from diptych.datasets.plan import Plan
from diptych.datasets.spec import SamplingSpec
from support.planned import plan_of

SQUARE, WIDE = (1024, 1024), (1344, 768)


def order(
    *plans: Plan, epoch: int = 1, num_before: int = 0, is_weighted: bool = True
) -> EpochOrder:
    return epoch_order(
        {one.spec.id: one for one in plans},
        is_weighted=is_weighted,
        seed=3,
        epoch=epoch,
        num_before=num_before,
        batches_per_step=2,
    )


@settings(max_examples=60, deadline=None)
@given(
    squares=st.integers(0, 9),
    wides=st.integers(0, 9),
    repeats=st.integers(1, 4),
    batch_size=st.integers(1, 5),
)
def test_each_repeat_sees_each_image_and_only_filling_sees_one_again(
    squares: int, wides: int, repeats: int, batch_size: int
) -> None:
    sides = [SQUARE] * squares + [WIDE] * wides
    plan = plan_of(sides, batch_size=batch_size, sampling=SamplingSpec(repeats=repeats))
    found = dataset_order(plan, seed=1, epoch=1)
    seen = Counter(zip(found.rows.ravel().tolist(), found.repeats.ravel().tolist(), strict=True))
    assert set(seen) == {(row, time) for row in range(len(plan)) for time in range(repeats)}
    assert seen.total() - len(seen) == sum(one.num_filled for one in plan.buckets)
    for bucket, rows in zip(found.bucket, found.rows, strict=True):
        assert set(rows.tolist()) <= set(plan.buckets[bucket].rows.tolist())


def test_what_fills_a_batch_is_another_in_another_epoch() -> None:
    plan = plan_of([SQUARE] * 9, batch_size=4)
    filling = []
    for epoch in range(1, 9):
        seen = Counter(dataset_order(plan, seed=1, epoch=epoch).rows.flat)
        filling.append(frozenset(row for row, times in seen.items() if times > 1))
    assert len(set(filling)) > 4


def test_seeds_and_epochs_have_orders_of_their_own_and_keep_them() -> None:
    plan = plan_of([SQUARE] * 30, batch_size=2)

    def rows(seed: int, epoch: int) -> tuple[int, ...]:
        return tuple(dataset_order(plan, seed=seed, epoch=epoch).rows.ravel().tolist())

    assert rows(1, 1) == rows(1, 1)
    assert len({rows(1, 1), rows(1, 2), rows(2, 1)}) == 3


def test_datasets_mix_by_probability_and_number_while_they_last() -> None:
    few = plan_of([SQUARE] * 300, id="few", sampling=SamplingSpec(probability=2.0))
    many = plan_of([SQUARE] * 1200, id="many")
    weighted = order(few, many).dataset[:300]
    uniform = order(few, many, is_weighted=False).dataset[:300]
    assert np.mean(weighted == 0) == pytest.approx(600 / 1800, abs=0.08)
    assert np.mean(uniform == 0) == pytest.approx(2 / 3, abs=0.08)


def test_every_batch_of_every_dataset_comes_once() -> None:
    plans = [plan_of([SQUARE] * count, id=f"d{count}", batch_size=3) for count in (3, 20, 50)]
    found = order(*plans)
    assert len(found) == 1 + 7 + 17
    pairs = set(zip(found.dataset.tolist(), found.number.tolist(), strict=True))
    assert len(pairs) == len(found)


def test_one_dataset_s_order_does_not_depend_on_the_others() -> None:
    one, other = plan_of([SQUARE] * 9, id="a"), plan_of([SQUARE] * 5, id="b")
    alone, mixed = order(one), order(other, one)
    assert (alone.datasets["a"].rows == mixed.datasets["a"].rows).all()


def test_a_dataset_comes_and_goes_with_its_epochs() -> None:
    late = plan_of([SQUARE] * 4, id="late", sampling=SamplingSpec(start_epoch=2, end_epoch=3))
    found = [len(order(late, epoch=epoch)) for epoch in (1, 2, 3, 4)]
    assert found == [0, 4, 4, 0]


def test_a_dataset_comes_and_goes_with_its_steps() -> None:
    early = plan_of([SQUARE] * 20, id="early", sampling=SamplingSpec(end_step=3))
    late = plan_of([SQUARE] * 20, id="late", sampling=SamplingSpec(start_step=4))
    found = order(early, late)
    assert found.dataset.tolist() == [0] * 6 + [1] * 20
    assert order(early, late, num_before=6).dataset.tolist() == [1] * 20


@pytest.mark.parametrize(
    ("epoch", "step", "expected"),
    [(1, 5, False), (2, 4, False), (2, 5, True), (3, 9, True), (4, 9, False), (3, 10, False)],
)
def test_both_epoch_and_step_must_be_reached(epoch: int, step: int, expected: bool) -> None:
    sampling = SamplingSpec(start_epoch=2, end_epoch=3, start_step=5, end_step=9)
    assert is_active(sampling, epoch=epoch, step=step) is expected
