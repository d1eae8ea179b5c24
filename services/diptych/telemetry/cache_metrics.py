"""Every metric of the embedding-cache service, by name."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

from prometheus_client import CollectorRegistry, Counter, Histogram, Info
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector
from typing_extensions import override

__all__ = ["CACHE_METRIC_NAMES", "CacheMetrics", "CacheReading", "TierReading"]

CACHE_METRIC_NAMES: Final[Mapping[str, str]] = {
    "diptych_cache_entries": "Embeddings by tier: memory, disk or remote.",
    "diptych_cache_bytes": "Bytes of embeddings by tier.",
    "diptych_cache_hits_total": "Embeddings found, by tier and kind.",
    "diptych_cache_misses_total": "Embeddings looked for in a tier and not found, by kind.",
    "diptych_cache_evictions_total": "Embeddings that made room for others, by tier.",
    "diptych_cache_damaged_total": "Embeddings found damaged and set aside.",
    "diptych_cache_encode_seconds": "One batch on the device, by kind.",
    "diptych_cache_encode_batch_size": "Embeddings of one batch, by kind.",
    "diptych_cache_in_flight": "Embeddings asked for and not made yet, by kind.",
    "diptych_cache_roots": "Datasets and pins that keep embeddings.",
    "diptych_requests_total": "Calls that ended, by RPC and canonical code.",
    "diptych_request_errors_total": "Calls that failed, by reason.",
    "diptych_build_info": "Version, device and models of this server.",
}
"""Name to help text; a metric that is not here does not exist."""

Family = TypeVar("Family", GaugeMetricFamily, CounterMetricFamily)

ENCODE_SECONDS: Final = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
BATCH_SIZES: Final = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True, slots=True, kw_only=True)
class TierReading:
    """One tier at a scrape, over all tenants."""

    num_entries: int
    size_bytes: int
    num_evictions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheReading:
    """What is read at a scrape."""

    tiers: Mapping[str, TierReading]
    num_damaged: int
    num_roots: int
    in_flight: Mapping[str, int]
    """By kind."""


class CacheMetrics:
    """The metrics of one cache service; ``on_*`` may be called from any thread."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register every metric with ``registry``, which must be new to them."""
        self.registry = registry
        self._hits = _counter("diptych_cache_hits_total", registry, ("tier", "kind"))
        self._misses = _counter("diptych_cache_misses_total", registry, ("tier", "kind"))
        self._seconds = _histogram("diptych_cache_encode_seconds", registry, ENCODE_SECONDS)
        self._sizes = _histogram("diptych_cache_encode_batch_size", registry, BATCH_SIZES)
        self._requests = _counter("diptych_requests_total", registry, ("method", "code"))
        self._errors = _counter("diptych_request_errors_total", registry, ("reason",))
        self._build = Info(
            "diptych_build", CACHE_METRIC_NAMES["diptych_build_info"], registry=registry
        )
        self._reading = _Reading()
        registry.register(self._reading)

    def on_look(self, *, tier: str, kind: str, is_hit: bool) -> None:
        """Count one look for an embedding in a tier."""
        (self._hits if is_hit else self._misses).labels(tier, kind).inc()

    def on_batch(self, *, kind: str, size: int, seconds: float) -> None:
        """Note one batch on the device."""
        self._seconds.labels(kind).observe(seconds)
        self._sizes.labels(kind).observe(size)

    def on_call(self, method: str, code: str, reason: str | None = None) -> None:
        """Count one ended call; ``reason`` is the error's, None for a success."""
        self._requests.labels(method=method, code=code).inc()
        if reason is not None:
            self._errors.labels(reason=reason).inc()

    def watch(self, read: Callable[[], CacheReading]) -> None:
        """Read the gauges from ``read`` at each scrape."""
        self._reading.read = read

    def describe(self, **labels: str) -> None:
        """Set the labels of ``diptych_build_info``."""
        self._build.info(labels)


class _Reading(Collector):
    """What is read when it is scraped; nothing before ``read`` is set."""

    def __init__(self) -> None:
        self.read: Callable[[], CacheReading] | None = None

    @override
    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        """Yield the families."""
        if self.read is None:
            return
        found = self.read()
        entries = _family(GaugeMetricFamily, "diptych_cache_entries", "tier")
        size_bytes = _family(GaugeMetricFamily, "diptych_cache_bytes", "tier")
        evictions = _family(CounterMetricFamily, "diptych_cache_evictions_total", "tier")
        for tier, one in found.tiers.items():
            entries.add_metric([tier], one.num_entries)
            size_bytes.add_metric([tier], one.size_bytes)
            evictions.add_metric([tier], one.num_evictions)
        in_flight = _family(GaugeMetricFamily, "diptych_cache_in_flight", "kind")
        for kind, number in found.in_flight.items():
            in_flight.add_metric([kind], number)
        damaged = _family(CounterMetricFamily, "diptych_cache_damaged_total")
        damaged.add_metric([], found.num_damaged)
        roots = _family(GaugeMetricFamily, "diptych_cache_roots")
        roots.add_metric([], found.num_roots)
        yield from (entries, size_bytes, evictions, in_flight, damaged, roots)


def _family(kind: type[Family], name: str, *labels: str) -> Family:
    return kind(name, CACHE_METRIC_NAMES[name], labels=labels)


def _counter(name: str, registry: CollectorRegistry, labels: tuple[str, ...]) -> Counter:
    return Counter(name, CACHE_METRIC_NAMES[name], labels, registry=registry)


def _histogram(name: str, registry: CollectorRegistry, buckets: tuple[float, ...]) -> Histogram:
    return Histogram(name, CACHE_METRIC_NAMES[name], ("kind",), buckets=buckets, registry=registry)
