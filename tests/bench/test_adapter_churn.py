"""Operations at random leave weights, memory, slots and lines as they were, or it is said."""

from dataclasses import replace

from diptych.bench.adapter_churn import CHURN_SETTINGS, OPERATIONS, Churn, measure_churn
from diptych.bench.serving import serving

KEPT = Churn(
    num_operations=10,
    counts={"generate": 10},
    refused={},
    before_bytes=1000,
    after_bytes=1010,
    weights_kept=True,
    picture_kept=True,
    num_graphs=0,
    num_slots=4,
    slots_free=4,
    num_lines=128,
    lines_usable=128,
)


def test_a_server_is_what_it_was_after_operations_at_random() -> None:
    seen: list[int] = []
    with serving(CHURN_SETTINGS) as server:
        found = measure_churn(
            server, num_operations=20, seed=1, rest_s=0.0, progress=lambda: seen.append(1)
        )
    assert (found.weights_kept, found.picture_kept, found.num_graphs) == (True, True, 0)
    assert (found.slots_free, found.lines_usable) == (found.num_slots, found.num_lines)
    assert sum(found.counts.values()) + sum(found.refused.values()) == 20
    assert len(seen) == 24


def test_every_loss_breaks_the_promise() -> None:
    assert KEPT.holds
    broken = [
        replace(KEPT, after_bytes=1030),
        replace(KEPT, weights_kept=False),
        replace(KEPT, picture_kept=False),
        replace(KEPT, num_graphs=1),
        replace(KEPT, slots_free=3),
        replace(KEPT, lines_usable=0),
    ]
    assert not any(one.holds for one in broken)


def test_operations_are_shares_of_a_hundred() -> None:
    assert sum(OPERATIONS.values()) == 100
