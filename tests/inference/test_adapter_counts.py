"""Every tier's counts reach a scrape."""

import dataclasses

from diptych.inference.adapter_counts import adapter_counts
from diptych.inference.adapter_pool import AdapterPool
from diptych.inference.adapting import AdapterStats
from diptych.storage.tiers import TierStats

POOL = dataclasses.replace(
    AdapterPool(num_lines=512, slice_s=0.0).stats(), resident=("a", "b"), num_hits=5
)
STATS = AdapterStats(pool=POOL, running=("huggy",), waiting=(), num_waiting=2)
TIERS = {"host": TierStats(size_bytes=10), "disk": TierStats(size_bytes=20, num_hits=3)}


def test_bytes_are_told_by_tier() -> None:
    assert adapter_counts(STATS, TIERS).size_bytes == {"host": 10, "disk": 20}


def test_hits_are_told_by_tier() -> None:
    assert adapter_counts(STATS, TIERS).hits == {"device": 5, "disk": 3}


def test_lines_become_adapters_of_rank_16() -> None:
    assert adapter_counts(STATS, {}).max_adapters == 32


def test_waiting_requests_are_told() -> None:
    assert adapter_counts(STATS, {}).num_waiting == 2
