"""Ratios are medians of pairs, and the whole comparison runs."""

from dataclasses import replace

import pytest

from diptych.bench.direct import Direct
from diptych.bench.recipes import SEED_RECIPE, mixed_recipes
from diptych.bench.reference import Reference
from diptych.bench.serving import Serving
from diptych.bench.throughput import Pairs, Throughput, measure_throughput, pair_up

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def pairs(ours_s: float, theirs_s: float) -> Pairs:
    return Pairs(ours_s=(ours_s,), theirs_s=(theirs_s,))


def test_the_ratio_is_the_median_of_the_pairs() -> None:
    found = Pairs(ours_s=(1.0, 1.0, 2.0), theirs_s=(2.0, 3.0, 20.0))
    assert found.ratio == 3.0


def test_both_sides_take_turns_and_the_first_turn_is_not_counted() -> None:
    turns: list[str] = []
    found = pair_up(lambda: turns.append("ours"), lambda: turns.append("theirs"), 2)
    assert turns == ["ours", "theirs"] * 3
    assert len(found.ours_s) == 2


@pytest.mark.parametrize(
    ("many", "single", "bare", "holds"),
    [
        (pairs(1.0, 2.1), pairs(1.0, 1.0), pairs(1.04, 1.0), True),
        (pairs(1.0, 1.9), pairs(1.0, 1.0), pairs(1.04, 1.0), False),
        (pairs(1.0, 2.1), pairs(1.1, 1.0), pairs(1.04, 1.0), False),
        (pairs(1.0, 2.1), pairs(1.0, 1.0), pairs(1.06, 1.0), False),
    ],
)
def test_every_promise_must_hold(many: Pairs, single: Pairs, bare: Pairs, holds: bool) -> None:
    assert Throughput(num_requests=1, many=many, single=single, bare=bare).holds is holds


def test_the_whole_comparison_runs(server: Serving, reference: Reference, direct: Direct) -> None:
    found = measure_throughput(
        server.client,
        reference,
        direct,
        recipes=[replace(recipe, num_steps=3) for recipe in mixed_recipes(2)],
        single=replace(SEED_RECIPE, num_steps=3),
        repeats=1,
    )
    assert min(found.many.ratio, found.latency_ratio) > 0
