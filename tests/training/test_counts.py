"""Metrics of jobs follow what their workers tell."""

import pytest
from prometheus_client import CollectorRegistry

from diptych.telemetry.training_metrics import TrainingMetrics
from diptych.training.counts import Counts, reading
from diptych.training.events import EventKind, Told


@pytest.fixture
def metrics() -> TrainingMetrics:
    return TrainingMetrics(CollectorRegistry())


@pytest.fixture
def counts(metrics: TrainingMetrics) -> Counts:
    return Counts(metrics)


def progress(step: int, speed: float, expert: str = "base") -> Told:
    data = {"expert": expert, "step": step, "num_steps": 200, "images_per_s": speed}
    return Told(kind=EventKind.PROGRESS, data=data)


def test_steps_are_counted_by_how_far_they_are(metrics: TrainingMetrics, counts: Counts) -> None:
    for step in (100, 110, 115):
        counts.on_told("j", progress(step, 1.0))
    name = "diptych_training_steps_total"
    assert metrics.registry.get_sample_value(name, {"expert": "base"}) == 15


def test_speed_is_that_of_all_jobs(counts: Counts) -> None:
    counts.on_told("a", progress(1, 2.0))
    counts.on_told("b", progress(1, 3.0))
    counts.on_told("b", progress(2, 4.0))
    assert counts.images_per_s == 6.0
    counts.on_ended("b")
    assert reading({}, counts).images_per_s == 2.0


def test_speeds_of_experts_that_are_trained_at_once_add_up(counts: Counts) -> None:
    counts.on_told("a", progress(1, 2.0))
    counts.on_told("a", progress(1, 3.0, "refiner"))
    assert counts.images_per_s == 5.0
    counts.on_told("a", progress(200, 2.0))
    assert counts.images_per_s == 3.0


def test_attempts_faults_and_waits_are_counted(metrics: TrainingMetrics, counts: Counts) -> None:
    counts.on_attempt()
    counts.on_fault("WORKER_LOST")
    counts.on_claimed(2.0)
    counts.on_told("j", Told(kind=EventKind.WARNING))
    value = metrics.registry.get_sample_value
    assert value("diptych_training_attempts_total") == 1
    assert value("diptych_training_faults_total", {"reason": "WORKER_LOST"}) == 1
    assert value("diptych_training_queue_time_seconds_sum") == 2.0


def test_server_without_jobs_reads_nothing(counts: Counts) -> None:
    assert reading({}, counts).heartbeat_age_s == 0.0
