"""Every metric of the inference service, by name.

Names use base units and end in ``_total`` for counters; where vLLM has the same concept its
name is kept, so that dashboards carry over.
"""

from collections.abc import Callable, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info

from diptych.telemetry.adapter_metrics import AdapterCollector, AdapterCounts

__all__ = ["METRIC_NAMES", "InferenceMetrics"]

METRIC_NAMES: Final[Mapping[str, str]] = {
    "diptych_num_requests_running": "Images being denoised.",
    "diptych_num_requests_waiting": "Images that wait for a slot.",
    "diptych_num_slots": "Images the device state can hold.",
    "diptych_num_slots_used": "Images in the device state.",
    "diptych_request_queue_time_seconds": "From admission to the first tick.",
    "diptych_step_time_seconds": "One tick: a UNet forward over a batch of rows, by expert.",
    "diptych_batch_rows": "UNet rows of one tick, by expert; a guided image takes two.",
    "diptych_batch_adapter_sets": "Unlike sets of adapters in one tick, by expert; none is one.",
    "diptych_adapter_load_seconds": "From an adapter's turn in the loader to host memory, by tier.",
    "diptych_adapter_load_failures_total": "Adapters that could not be loaded, by reason.",
    "diptych_adapter_resident": "Adapters by the tier that holds them: device, host or disk.",
    "diptych_adapter_bytes": "Bytes of adapters by tier: device, host or disk.",
    "diptych_adapter_lines": "Rank lines of the device, which adapters share.",
    "diptych_adapter_lines_used": "Rank lines taken.",
    "diptych_adapter_hits_total": "Adapters found where they were looked for, by tier.",
    "diptych_adapter_misses_total": "Adapters not found there, by tier.",
    "diptych_adapter_evictions_total": "Adapters that made room for others, by tier.",
    "diptych_adapter_requests_waiting": "Requests whose adapters are not all on the device yet.",
    "diptych_adapter_active": "Adapters that images run with.",
    "diptych_lora_requests_info": "Names of adapters of running and of waiting images; the time.",
    "diptych_cache_hits_total": "Prompts' embeddings found, by the tier of the cache and kind.",
    "diptych_cache_misses_total": "Prompts' embeddings not found there, by tier and kind.",
    "diptych_decode_time_seconds": "From finished latents to the encoded image.",
    "diptych_e2e_request_latency_seconds": "From arrival to the last image, successes only.",
    "diptych_images_total": "Images delivered, by output format.",
    "diptych_requests_total": "Calls that ended, by RPC and canonical code.",
    "diptych_request_errors_total": "Calls that failed, by reason.",
    "diptych_build_info": "Version, device and models of this server.",
}
"""Name to help text; a metric that is not here does not exist."""

STEP_SECONDS: Final = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
REQUEST_SECONDS: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
BATCH_ROWS: Final = (1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64)
BATCH_SETS: Final = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)


class InferenceMetrics:
    """The metrics of one engine; its ``on_*`` methods are what the engine calls.

    Methods may be called from any thread: prometheus_client locks each value.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register every metric with ``registry``, which must be new to them."""
        self.registry = registry
        self._running = _gauge("diptych_num_requests_running", registry)
        self._waiting = _gauge("diptych_num_requests_waiting", registry)
        self._slots = _gauge("diptych_num_slots", registry)
        self._slots_used = _gauge("diptych_num_slots_used", registry)
        self._queue = _histogram("diptych_request_queue_time_seconds", registry, REQUEST_SECONDS)
        self._step = _histogram(
            "diptych_step_time_seconds", registry, STEP_SECONDS, labels=("expert",)
        )
        self._rows = _histogram("diptych_batch_rows", registry, BATCH_ROWS, labels=("expert",))
        self._sets = _histogram(
            "diptych_batch_adapter_sets", registry, BATCH_SETS, labels=("expert",)
        )
        self._decode = _histogram("diptych_decode_time_seconds", registry, STEP_SECONDS)
        self._latency = _histogram("diptych_e2e_request_latency_seconds", registry, REQUEST_SECONDS)
        self._loads = _histogram(
            "diptych_adapter_load_seconds", registry, STEP_SECONDS, labels=("tier",)
        )
        self._load_failures = _counter("diptych_adapter_load_failures_total", registry, ("reason",))
        self._adapters = AdapterCollector(METRIC_NAMES)
        registry.register(self._adapters)
        self._hits = _counter("diptych_cache_hits_total", registry, ("tier", "kind"))
        self._misses = _counter("diptych_cache_misses_total", registry, ("tier", "kind"))
        self._images = _counter("diptych_images_total", registry, ("format",))
        self._requests = _counter("diptych_requests_total", registry, ("method", "code"))
        self._errors = _counter("diptych_request_errors_total", registry, ("reason",))
        self._build = Info("diptych_build", METRIC_NAMES["diptych_build_info"], registry=registry)

    def on_tick(self, *, expert: str, num_rows: int, num_adapter_sets: int, seconds: float) -> None:
        """Note one tick of ``expert``; ``num_rows`` counts UNet rows."""
        self._step.labels(expert=expert).observe(seconds)
        self._rows.labels(expert=expert).observe(num_rows)
        self._sets.labels(expert=expert).observe(num_adapter_sets)

    def on_queue_time(self, seconds: float) -> None:
        """Note how long a request waited for its first tick."""
        self._queue.observe(seconds)

    def on_decode(self, seconds: float) -> None:
        """Note the time from finished latents to the picture of one image."""
        self._decode.observe(seconds)

    def on_adapter_load(self, *, seconds: float, tier: str, reason: str | None) -> None:
        """Note a load from ``tier``; ``reason`` is the error's, None for success."""
        if reason is None:
            self._loads.labels(tier).observe(seconds)
        else:
            self._load_failures.labels(reason).inc()

    def on_look(self, *, tier: str, kind: str, is_hit: bool) -> None:
        """Count one look for an embedding in a tier of the cache."""
        (self._hits if is_hit else self._misses).labels(tier, kind).inc()

    def on_finish(self, *, seconds: float, num_images: int, reason: str | None) -> None:
        """Note the end of an admitted request; only a success, without ``reason``, has a latency.

        Failures are counted by ``on_call``, which also hears of requests never admitted.
        """
        del num_images
        if reason is None:
            self._latency.observe(seconds)

    def on_image(self, output: str) -> None:
        """Count one delivered image of format ``output``."""
        self._images.labels(format=output).inc()

    def on_call(self, method: str, code: str, reason: str | None = None) -> None:
        """Count one ended call; ``reason`` is the error's, None for a success."""
        self._requests.labels(method=method, code=code).inc()
        if reason is not None:
            self._errors.labels(reason=reason).inc()

    def watch_load(
        self,
        *,
        running: Callable[[], float],
        waiting: Callable[[], float],
        slots: Callable[[], float],
        slots_used: Callable[[], float],
    ) -> None:
        """Read the load gauges from these functions at each scrape."""
        self._running.set_function(running)
        self._waiting.set_function(waiting)
        self._slots.set_function(slots)
        self._slots_used.set_function(slots_used)

    def watch_adapters(self, read: Callable[[], AdapterCounts]) -> None:
        """Read what adapters do from ``read`` at each scrape."""
        self._adapters.watch(read)

    def describe(self, **labels: str) -> None:
        """Set the labels of ``diptych_build_info``."""
        self._build.info(labels)


def _gauge(name: str, registry: CollectorRegistry) -> Gauge:
    return Gauge(name, METRIC_NAMES[name], registry=registry)


def _counter(name: str, registry: CollectorRegistry, labels: tuple[str, ...]) -> Counter:
    return Counter(name, METRIC_NAMES[name], labels, registry=registry)


def _histogram(
    name: str,
    registry: CollectorRegistry,
    buckets: tuple[float, ...],
    *,
    labels: tuple[str, ...] = (),
) -> Histogram:
    return Histogram(name, METRIC_NAMES[name], labels, buckets=buckets, registry=registry)
