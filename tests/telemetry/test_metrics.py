"""Every metric is named in one file and can be read over HTTP."""

import urllib.request
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry

from diptych.telemetry.metrics import METRIC_NAMES, InferenceMetrics
from diptych.telemetry.metrics_port import MetricsServer


@pytest.fixture
def metrics() -> InferenceMetrics:
    return InferenceMetrics(CollectorRegistry())


@pytest.fixture
def server(metrics: InferenceMetrics) -> Iterator[MetricsServer]:
    server = MetricsServer(metrics.registry, host="127.0.0.1", port=0)
    yield server
    server.close()


def scrape(server: MetricsServer) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=5) as answer:
        body: bytes = answer.read()
    return body.decode()


def test_registry_holds_exactly_the_listed_names(metrics: InferenceMetrics) -> None:
    suffix = {"counter": "_total", "info": "_info"}
    found = {f.name + suffix.get(f.type, "") for f in metrics.registry.collect()}
    assert found == set(METRIC_NAMES)


def test_names_are_what_dashboards_rely_on() -> None:
    assert sorted(METRIC_NAMES) == [
        "diptych_adapter_active",
        "diptych_adapter_bytes",
        "diptych_adapter_evictions_total",
        "diptych_adapter_hits_total",
        "diptych_adapter_lines",
        "diptych_adapter_lines_used",
        "diptych_adapter_load_failures_total",
        "diptych_adapter_load_seconds",
        "diptych_adapter_misses_total",
        "diptych_adapter_requests_waiting",
        "diptych_adapter_resident",
        "diptych_batch_adapter_sets",
        "diptych_batch_rows",
        "diptych_build_info",
        "diptych_cache_hits_total",
        "diptych_cache_misses_total",
        "diptych_decode_time_seconds",
        "diptych_e2e_request_latency_seconds",
        "diptych_images_total",
        "diptych_lora_requests_info",
        "diptych_num_requests_running",
        "diptych_num_requests_waiting",
        "diptych_num_slots",
        "diptych_num_slots_used",
        "diptych_request_errors_total",
        "diptych_request_queue_time_seconds",
        "diptych_requests_total",
        "diptych_step_time_seconds",
    ]


def test_two_registries_do_not_meet() -> None:
    first, second = (InferenceMetrics(CollectorRegistry()) for _ in range(2))
    first.on_image("png")
    assert second.registry.get_sample_value("diptych_images_total", {"format": "png"}) is None


def test_tick_is_noted_by_expert(metrics: InferenceMetrics) -> None:
    metrics.on_tick(expert="base", num_rows=3, num_adapter_sets=2, seconds=0.25)
    read = metrics.registry.get_sample_value
    assert read("diptych_step_time_seconds_sum", {"expert": "base"}) == 0.25
    assert read("diptych_batch_rows_sum", {"expert": "base"}) == 3
    assert read("diptych_batch_adapter_sets_sum", {"expert": "base"}) == 2


def test_finished_request_has_a_latency(metrics: InferenceMetrics) -> None:
    metrics.on_finish(seconds=2.0, num_images=1, reason=None)
    read = metrics.registry.get_sample_value
    assert read("diptych_e2e_request_latency_seconds_sum") == 2.0


def test_failed_request_has_no_latency(metrics: InferenceMetrics) -> None:
    metrics.on_finish(seconds=2.0, num_images=1, reason="ENGINE_FAULT")
    read = metrics.registry.get_sample_value
    assert read("diptych_e2e_request_latency_seconds_count") == 0


def test_failed_call_counts_its_reason(metrics: InferenceMetrics) -> None:
    metrics.on_call("Generate", "RESOURCE_EXHAUSTED", "QUEUE_FULL")
    read = metrics.registry.get_sample_value
    assert read("diptych_request_errors_total", {"reason": "QUEUE_FULL"}) == 1


def test_successful_call_counts_no_error(metrics: InferenceMetrics) -> None:
    metrics.on_call("Generate", "OK")
    labels = {"method": "Generate", "code": "OK"}
    assert metrics.registry.get_sample_value("diptych_requests_total", labels) == 1
    errors = next(f for f in metrics.registry.collect() if f.name == "diptych_request_errors")
    assert errors.samples == []


def test_load_gauges_are_read_at_scrape(metrics: InferenceMetrics, server: MetricsServer) -> None:
    load = {"running": 0.0}
    metrics.watch_load(
        running=lambda: load["running"],
        waiting=lambda: 2.0,
        slots=lambda: 16.0,
        slots_used=lambda: 3.0,
    )
    load["running"] = 5.0
    assert "\ndiptych_num_requests_running 5.0\n" in scrape(server)


def test_scrape_names_the_build(metrics: InferenceMetrics, server: MetricsServer) -> None:
    metrics.describe(version="0.1.0", device="cpu")
    assert 'diptych_build_info{device="cpu",version="0.1.0"} 1.0' in scrape(server)


def test_looks_for_embeddings_are_counted_by_tier(metrics: InferenceMetrics) -> None:
    for is_hit in (True, True, False):
        metrics.on_look(tier="memory", kind="prompt", is_hit=is_hit)
    labels = {"tier": "memory", "kind": "prompt"}
    counts = [
        metrics.registry.get_sample_value(f"diptych_cache_{name}_total", labels)
        for name in ("hits", "misses")
    ]
    assert counts == [2, 1]


def test_closed_server_refuses(metrics: InferenceMetrics) -> None:
    server = MetricsServer(metrics.registry, host="127.0.0.1", port=0)
    server.close()
    with pytest.raises(OSError, match="refused"):
        scrape(server)
