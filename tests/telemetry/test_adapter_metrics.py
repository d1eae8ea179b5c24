"""What adapters do can be scraped, in the shape that routers know from vLLM."""

import pytest
from prometheus_client import CollectorRegistry

from diptych.telemetry.adapter_metrics import AdapterCounts
from diptych.telemetry.metrics import InferenceMetrics

COUNTS = AdapterCounts(
    resident={"device": 2, "host": 1},
    size_bytes={"disk": 4096},
    hits={"device": 7, "disk": 3},
    misses={"device": 2},
    evictions={"device": 1},
    num_lines=512,
    lines_used=24,
    num_waiting=3,
    num_active=2,
    max_adapters=32,
    running=("huggy", "night"),
    waiting=("cold",),
)


@pytest.fixture
def registry() -> CollectorRegistry:
    metrics = InferenceMetrics(CollectorRegistry())
    metrics.watch_adapters(lambda: COUNTS)
    return metrics.registry


@pytest.mark.parametrize(
    ("name", "labels", "value"),
    [
        ("diptych_adapter_resident", {"tier": "device"}, 2),
        ("diptych_adapter_bytes", {"tier": "disk"}, 4096),
        ("diptych_adapter_hits_total", {"tier": "device"}, 7),
        ("diptych_adapter_misses_total", {"tier": "device"}, 2),
        ("diptych_adapter_evictions_total", {"tier": "device"}, 1),
        ("diptych_adapter_lines", {}, 512),
        ("diptych_adapter_lines_used", {}, 24),
        ("diptych_adapter_requests_waiting", {}, 3),
        ("diptych_adapter_active", {}, 2),
    ],
)
def test_counts_are_read_at_the_scrape(
    name: str, labels: dict[str, str], value: float, registry: CollectorRegistry
) -> None:
    assert registry.get_sample_value(name, labels) == value


def test_routers_find_names_and_capacity(registry: CollectorRegistry) -> None:
    labels = {
        "max_lora": "32",
        "running_lora_adapters": "huggy,night",
        "waiting_lora_adapters": "cold",
    }
    stamp = registry.get_sample_value("diptych_lora_requests_info", labels)
    assert stamp is not None
    assert stamp > 1e9


def test_server_without_adapters_has_one_empty_line() -> None:
    registry = InferenceMetrics(CollectorRegistry()).registry
    labels = {"max_lora": "0", "running_lora_adapters": "", "waiting_lora_adapters": ""}
    assert registry.get_sample_value("diptych_lora_requests_info", labels) is not None
