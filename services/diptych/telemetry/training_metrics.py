"""Every metric of the training service, by name."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, Info
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from typing_extensions import override

__all__ = ["TRAINING_METRIC_NAMES", "TrainingMetrics", "TrainingReading"]

TRAINING_METRIC_NAMES: Final[Mapping[str, str]] = {
    "diptych_training_jobs": "Jobs that this replica owns, by state; waiting ones have no owner.",
    "diptych_training_attempts_total": "Workers started.",
    "diptych_training_faults_total": "Attempts that ended badly, by reason.",
    "diptych_training_steps_total": "Optimizer steps trained, by expert.",
    "diptych_training_images_per_second": "Pictures trained on a second, over all jobs here.",
    "diptych_training_queue_time_seconds": "From a job's creation to its first start.",
    "diptych_training_heartbeat_age_seconds": "Of the worker here that was silent longest.",
    "diptych_requests_total": "Calls that ended, by RPC and canonical code.",
    "diptych_request_errors_total": "Calls that failed, by reason.",
    "diptych_build_info": "Version of this server.",
}
"""Name to help text; a metric that is not here does not exist."""

QUEUE_SECONDS: Final = (0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0, 86_400.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingReading:
    """What is read at a scrape."""

    jobs: Mapping[str, int]
    """By state."""
    images_per_s: float
    heartbeat_age_s: float


class TrainingMetrics:
    """The metrics of one training service; ``on_*`` may be called from any thread."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register every metric with ``registry``, which must be new to them."""
        self.registry = registry
        self._attempts = _counter("diptych_training_attempts_total", registry)
        self._faults = _counter("diptych_training_faults_total", registry, "reason")
        self._steps = _counter("diptych_training_steps_total", registry, "expert")
        name = "diptych_training_queue_time_seconds"
        self._waited = Histogram(
            name, TRAINING_METRIC_NAMES[name], buckets=QUEUE_SECONDS, registry=registry
        )
        self._requests = _counter("diptych_requests_total", registry, "method", "code")
        self._errors = _counter("diptych_request_errors_total", registry, "reason")
        self._build = Info(
            "diptych_build", TRAINING_METRIC_NAMES["diptych_build_info"], registry=registry
        )
        self._reading = _Reading()
        registry.register(self._reading)

    def on_attempt(self) -> None:
        """Count one start of a worker."""
        self._attempts.inc()

    def on_fault(self, reason: str) -> None:
        """Count one attempt that ended badly."""
        self._faults.labels(reason).inc()

    def on_steps(self, *, expert: str, num_steps: int) -> None:
        """Count optimizer steps."""
        self._steps.labels(expert).inc(num_steps)

    def on_wait(self, seconds: float) -> None:
        """Note how long a job waited for its first start."""
        self._waited.observe(seconds)

    def on_call(self, method: str, code: str, reason: str | None = None) -> None:
        """Count one ended call; ``reason`` is the error's, None for a success."""
        self._requests.labels(method=method, code=code).inc()
        if reason is not None:
            self._errors.labels(reason=reason).inc()

    def watch(self, read: Callable[[], TrainingReading]) -> None:
        """Read the gauges from ``read`` at each scrape."""
        self._reading.read = read

    def describe(self, **labels: str) -> None:
        """Set the labels of ``diptych_build_info``."""
        self._build.info(labels)


class _Reading(Collector):
    """What is read when it is scraped; nothing before ``read`` is set."""

    def __init__(self) -> None:
        self.read: Callable[[], TrainingReading] | None = None

    @override
    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the families."""
        if self.read is None:
            return
        found = self.read()
        jobs = _gauge("diptych_training_jobs", "state")
        for state, number in found.jobs.items():
            jobs.add_metric([state], number)
        speed = _gauge("diptych_training_images_per_second")
        speed.add_metric([], found.images_per_s)
        age = _gauge("diptych_training_heartbeat_age_seconds")
        age.add_metric([], found.heartbeat_age_s)
        yield from (jobs, speed, age)


def _gauge(name: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, TRAINING_METRIC_NAMES[name], labels=labels)


def _counter(name: str, registry: CollectorRegistry, *labels: str) -> Counter:
    return Counter(name, TRAINING_METRIC_NAMES[name], labels, registry=registry)
