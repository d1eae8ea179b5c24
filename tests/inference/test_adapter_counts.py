"""Every tier's counts reach a scrape."""

import dataclasses

from diptych.inference.adapter_counts import adapter_counts
from diptych.inference.adapter_pool import AdapterPool
from diptych.inference.adapting import AdapterStats
from diptych.storage.tiers import TierStats

POOL = dataclasses.replace(
    AdapterPool(num_lines=512, slice_s=0.0).stats(),
    resident=("a", "b", "a"),
    size_bytes=30,
    num_hits=5,
    num_misses=4,
    num_evictions=3,
    users={("studio", "a"): 2, ("lab", "a"): 1},
)
STATS = AdapterStats(
    pool=POOL, in_host=frozenset(), running=("huggy", "me/huggy"), waiting=(), num_waiting=2
)
TIERS = {
    "host": TierStats(num_held=3, size_bytes=10, num_hits=1, num_misses=2, num_evictions=6),
    "disk": TierStats(num_held=4, size_bytes=20, num_hits=3, num_misses=7, num_evictions=8),
}


def test_every_tier_is_told() -> None:
    counts = adapter_counts(STATS, TIERS)
    assert counts.size_bytes == {"device": 30, "host": 10, "disk": 20}
    assert counts.hits == {"device": 5, "host": 1, "disk": 3}
    assert counts.misses == {"device": 4, "host": 2, "disk": 7}
    assert counts.evictions == {"device": 3, "host": 6, "disk": 8}


def test_adapter_in_two_units_is_resident_once() -> None:
    assert adapter_counts(STATS, TIERS).resident == {"device": 2, "host": 3, "disk": 4}


def test_tier_that_is_not_there_is_not_told() -> None:
    assert adapter_counts(STATS, {}).resident == {"device": 2}


def test_adapter_under_two_names_is_active_once() -> None:
    assert adapter_counts(STATS, {}).num_active == 1


def test_lines_become_adapters_of_rank_16() -> None:
    assert adapter_counts(STATS, {}).max_adapters == 32


def test_device_of_few_lines_has_room_for_one() -> None:
    few = dataclasses.replace(STATS, pool=dataclasses.replace(POOL, num_lines=8))
    assert adapter_counts(few, {}).max_adapters == 1


def test_waiting_requests_are_told() -> None:
    assert adapter_counts(STATS, {}).num_waiting == 2
