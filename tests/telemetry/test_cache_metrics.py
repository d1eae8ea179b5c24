"""The cache's metrics are those of the list, with truthful values."""

import pytest
from prometheus_client import CollectorRegistry

from diptych.telemetry.cache_metrics import (
    CACHE_METRIC_NAMES,
    CacheMetrics,
    CacheReading,
    TierReading,
)


@pytest.fixture
def metrics() -> CacheMetrics:
    return CacheMetrics(CollectorRegistry())


def value(metrics: CacheMetrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_exports_what_the_list_names(metrics: CacheMetrics) -> None:
    reading = CacheReading(tiers={}, num_damaged=0, num_roots=0, in_flight={})
    metrics.watch(lambda: reading)
    metrics.describe(version="1")
    exported = {family.name for family in metrics.registry.collect()}
    named = {name.removesuffix("_total").removesuffix("_info") for name in CACHE_METRIC_NAMES}
    assert exported == named


def test_hits_and_misses_are_counted_by_tier_and_kind(metrics: CacheMetrics) -> None:
    metrics.on_look(tier="disk", kind="image", is_hit=True)
    metrics.on_look(tier="all", kind="prompt", is_hit=False)
    assert value(metrics, "diptych_cache_hits_total", tier="disk", kind="image") == 1
    assert value(metrics, "diptych_cache_misses_total", tier="all", kind="prompt") == 1


def test_batches_are_measured_by_kind(metrics: CacheMetrics) -> None:
    metrics.on_batch(kind="image", size=3, seconds=0.5)
    assert value(metrics, "diptych_cache_encode_seconds_sum", kind="image") == 0.5
    assert value(metrics, "diptych_cache_encode_batch_size_sum", kind="image") == 3


def test_tiers_are_read_at_the_scrape(metrics: CacheMetrics) -> None:
    tier = TierReading(num_entries=2, size_bytes=30, num_evictions=4)
    reading = CacheReading(
        tiers={"memory": tier}, num_damaged=5, num_roots=6, in_flight={"prompt": 7}
    )
    metrics.watch(lambda: reading)
    assert value(metrics, "diptych_cache_bytes", tier="memory") == 30
    assert value(metrics, "diptych_cache_evictions_total", tier="memory") == 4
    assert value(metrics, "diptych_cache_damaged_total") == 5
    assert value(metrics, "diptych_cache_in_flight", kind="prompt") == 7


def test_nothing_is_read_before_there_is_a_cache(metrics: CacheMetrics) -> None:
    assert value(metrics, "diptych_cache_roots") is None
