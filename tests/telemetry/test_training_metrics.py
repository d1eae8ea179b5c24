"""The training service's metrics are those of the list, with truthful values."""

import pytest
from prometheus_client import CollectorRegistry

from diptych.telemetry.training_metrics import (
    TRAINING_METRIC_NAMES,
    TrainingMetrics,
    TrainingReading,
)

READING = TrainingReading(jobs={"running": 2}, images_per_s=3.5, heartbeat_age_s=0.25)


@pytest.fixture
def metrics() -> TrainingMetrics:
    return TrainingMetrics(CollectorRegistry())


def value(metrics: TrainingMetrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_exports_what_the_list_names(metrics: TrainingMetrics) -> None:
    metrics.watch(lambda: READING)
    metrics.describe(version="1")
    exported = {family.name for family in metrics.registry.collect()}
    named = {name.removesuffix("_total").removesuffix("_info") for name in TRAINING_METRIC_NAMES}
    assert exported == named


def test_jobs_are_read_at_the_scrape(metrics: TrainingMetrics) -> None:
    metrics.watch(lambda: READING)
    assert value(metrics, "diptych_training_jobs", state="running") == 2
    assert value(metrics, "diptych_training_images_per_second") == 3.5
    assert value(metrics, "diptych_training_heartbeat_age_seconds") == 0.25


def test_nothing_is_read_before_there_is_a_supervisor(metrics: TrainingMetrics) -> None:
    assert value(metrics, "diptych_training_heartbeat_age_seconds") is None


def test_calls_are_counted_by_code_and_reason(metrics: TrainingMetrics) -> None:
    metrics.on_call("GetTrainingJob", "NOT_FOUND", "JOB_NOT_FOUND")
    labels = {"method": "GetTrainingJob", "code": "NOT_FOUND"}
    assert value(metrics, "diptych_requests_total", **labels) == 1
    assert value(metrics, "diptych_request_errors_total", reason="JOB_NOT_FOUND") == 1
