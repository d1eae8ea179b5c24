"""What adapters do, counted elsewhere and read when somebody scrapes."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from typing_extensions import override

__all__ = ["AdapterCollector", "AdapterCounts", "utc_seconds"]

ReadCounts = Callable[[], "AdapterCounts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterCounts:
    """A snapshot; maps go by tier: device, host and disk."""

    resident: Mapping[str, int] = field(default_factory=dict)
    """Adapters."""
    size_bytes: Mapping[str, int] = field(default_factory=dict)
    hits: Mapping[str, int] = field(default_factory=dict)
    misses: Mapping[str, int] = field(default_factory=dict)
    evictions: Mapping[str, int] = field(default_factory=dict)
    num_lines: int = 0
    lines_used: int = 0
    num_waiting: int = 0
    """Requests whose adapters are not all on the device yet."""
    num_active: int = 0
    """Adapters that images run with."""
    max_adapters: int = 0
    """Adapters of ordinary rank that the device holds at the same time."""
    running: tuple[str, ...] = ()
    """Names."""
    waiting: tuple[str, ...] = ()
    """Names."""


def utc_seconds() -> float:
    """Return seconds since 1970 by this machine's clock."""
    return datetime.now(UTC).timestamp()


class AdapterCollector(Collector):
    """Families of one server's adapters; ``read`` is called at each scrape.

    ``help_of`` gives each family's help, by its name as it is exposed.
    """

    def __init__(
        self, help_of: Mapping[str, str], *, clock: Callable[[], float] = utc_seconds
    ) -> None:
        self._help_of = help_of
        self._clock = clock
        self._read: ReadCounts = AdapterCounts

    def watch(self, read: ReadCounts) -> None:
        """Read from here from now on; any thread may call ``read``."""
        self._read = read

    @override
    def collect(self) -> Iterator[Metric]:
        """Yield what adapters do now."""
        counts = self._read()
        yield self._gauge("diptych_adapter_resident", counts.resident)
        yield self._gauge("diptych_adapter_bytes", counts.size_bytes)
        yield self._counter("diptych_adapter_hits_total", counts.hits)
        yield self._counter("diptych_adapter_misses_total", counts.misses)
        yield self._counter("diptych_adapter_evictions_total", counts.evictions)
        yield self._single("diptych_adapter_lines", counts.num_lines)
        yield self._single("diptych_adapter_lines_used", counts.lines_used)
        yield self._single("diptych_adapter_requests_waiting", counts.num_waiting)
        yield self._single("diptych_adapter_active", counts.num_active)
        yield self._info(counts)

    def _info(self, counts: AdapterCounts) -> Metric:
        """Return vLLM's gauge of adapters: names as labels, the time as the value."""
        name = "diptych_lora_requests_info"
        labels = ("max_lora", "running_lora_adapters", "waiting_lora_adapters")
        family = GaugeMetricFamily(name, self._help_of[name], labels=labels)
        values = (str(counts.max_adapters), ",".join(counts.running), ",".join(counts.waiting))
        family.add_metric(values, self._clock())
        return family

    def _gauge(self, name: str, values: Mapping[str, int]) -> Metric:
        family = GaugeMetricFamily(name, self._help_of[name], labels=("tier",))
        for tier, value in values.items():
            family.add_metric((tier,), value)
        return family

    def _counter(self, name: str, values: Mapping[str, int]) -> Metric:
        family = CounterMetricFamily(name, self._help_of[name], labels=("tier",))
        for tier, value in values.items():
            family.add_metric((tier,), value)
        return family

    def _single(self, name: str, value: int) -> Metric:
        return GaugeMetricFamily(name, self._help_of[name], value=value)
