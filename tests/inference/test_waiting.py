"""Flows take turns by what they cost; within a flow the oldest goes first."""

from hypothesis import given
from hypothesis import strategies as st

from diptych.inference.waiting import Waiting


def served(waiting: Waiting, count: int) -> list[int]:
    order = []
    for _ in range(count):
        number = waiting.heads()[0]
        waiting.take(number)
        order.append(number)
    return order


def test_the_oldest_of_a_flow_goes_first() -> None:
    waiting = Waiting()
    for number in (3, 1, 2):
        waiting.put(number, "a", cost_s=1.0)
    assert served(waiting, 3) == [1, 2, 3]


def test_a_busy_flow_does_not_keep_another_waiting() -> None:
    waiting = Waiting()
    for number in range(100):
        waiting.put(number, "hot", cost_s=1.0)
    waiting.put(100, "cold", cost_s=1.0)
    assert 100 in served(waiting, 2)


def test_flows_share_by_cost_and_not_by_count() -> None:
    waiting = Waiting()
    for number in range(40):
        waiting.put(number, "dear" if number % 2 else "cheap", cost_s=3.0 if number % 2 else 1.0)
    order = served(waiting, 16)
    assert sum(number % 2 for number in order) == 4


def test_an_idle_flow_has_no_claim_on_the_past() -> None:
    waiting = Waiting()
    for number in range(10):
        waiting.put(number, "a", cost_s=1.0)
    served(waiting, 8)
    waiting.put(10, "b", cost_s=1.0)
    waiting.put(11, "b", cost_s=1.0)
    assert 8 in served(waiting, 2)


def test_what_is_discarded_is_not_served() -> None:
    waiting = Waiting()
    waiting.put(1, "a", cost_s=1.0)
    waiting.put(2, "b", cost_s=1.0)
    waiting.discard(1)
    waiting.discard(1)
    assert waiting.heads() == [2]


@given(st.lists(st.tuples(st.integers(0, 4), st.floats(0.1, 9.0)), max_size=40))
def test_everything_is_served_once(images: list[tuple[int, float]]) -> None:
    waiting = Waiting()
    for number, (flow, cost_s) in enumerate(images):
        waiting.put(number, flow, cost_s=cost_s)
    assert sorted(served(waiting, len(images))) == list(range(len(images)))
    assert len(waiting) == 0


@given(st.lists(st.integers(1, 30), min_size=2, max_size=8))
def test_no_flow_waits_for_more_than_one_of_each_other(sizes: list[int]) -> None:
    waiting = Waiting()
    flow_of: list[int] = []
    for flow, size in enumerate(sizes):
        for _ in range(size):
            waiting.put(len(flow_of), flow, cost_s=1.0)
            flow_of.append(flow)
    first_round = served(waiting, len(sizes))
    assert sorted(flow_of[number] for number in first_round) == list(range(len(sizes)))
