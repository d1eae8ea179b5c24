"""Cost learned from ticks, and what it admits."""

import pytest

from diptych.errors import DeadlineUnreachable, QueueFull
from diptych.inference.admission import CostModel, Demand, admit
from diptych.inference.trajectory import Expert


def demand(**changes: float) -> Demand:
    values = {"num_images": 1, "image_s": 2.0, "remaining_s": None} | changes
    return Demand(**values)  # type: ignore[arg-type]


def test_learns_seconds_per_row_from_ticks() -> None:
    costs = CostModel()
    for _ in range(200):
        costs.learn(Expert.BASE, 4096, num_rows=8, seconds=4.0)
    assert costs.row_s(Expert.BASE, 4096) == pytest.approx(0.5)


def test_scales_an_unmeasured_size_by_its_area() -> None:
    costs = CostModel()
    costs.learn(Expert.BASE, 4096, num_rows=1, seconds=0.5)
    assert costs.row_s(Expert.BASE, 8192) == pytest.approx(1.0)


def test_takes_the_same_expert_for_a_guess_before_the_nearest_size() -> None:
    costs = CostModel()
    costs.learn(Expert.BASE, 4096, num_rows=1, seconds=0.5)
    costs.learn(Expert.REFINER, 8192, num_rows=1, seconds=9.0)
    assert costs.row_s(Expert.BASE, 8192) == pytest.approx(1.0)


def test_adds_up_the_work_of_both_experts() -> None:
    costs = CostModel()
    costs.learn(Expert.BASE, 4096, num_rows=1, seconds=0.5)
    costs.learn(Expert.REFINER, 4096, num_rows=1, seconds=0.25)
    assert costs.work_s({Expert.BASE: 4, Expert.REFINER: 2}, 4096) == pytest.approx(2.5)


def test_predicts_no_more_of_others_work_than_its_own() -> None:
    predicted_s = admit(demand(), [0.5, 100.0], num_waiting=0, max_waiting=8)
    assert predicted_s == pytest.approx(2.0 + 0.5 + 2.0)


def test_refuses_a_deadline_before_the_predicted_end() -> None:
    with pytest.raises(DeadlineUnreachable):
        admit(demand(remaining_s=3.9), [2.0], num_waiting=0, max_waiting=8)


def test_admits_a_deadline_after_the_predicted_end() -> None:
    assert admit(demand(remaining_s=4.1), [2.0], num_waiting=0, max_waiting=8) == 4.0


def test_refuses_images_beyond_the_limit_and_says_when_to_retry() -> None:
    with pytest.raises(QueueFull) as refused:
        admit(demand(num_images=2), [3.0, 5.0], num_waiting=7, max_waiting=8)
    assert refused.value.retry_after_s == pytest.approx(8.0)
