"""What the owner of jobs sees of them, as metrics."""

from collections.abc import Mapping

from diptych.telemetry.training_metrics import TrainingMetrics, TrainingReading
from diptych.training.events import EventKind, Told
from diptych.training.job_run import JobRun

__all__ = ["Counts", "reading"]


class Counts:
    """Counts what jobs tell; called from their threads, each for its own jobs."""

    def __init__(self, metrics: TrainingMetrics) -> None:
        """Count with ``metrics``."""
        self._metrics = metrics
        self._steps: dict[str, dict[str, int]] = {}
        self._speeds: dict[str, dict[str, float]] = {}

    @property
    def images_per_s(self) -> float:
        """Pictures trained on a second, over all jobs and what experts they train at once."""
        return sum(sum(tuple(one.values())) for one in tuple(self._speeds.values()))

    def on_attempt(self) -> None:
        """Count a start."""
        self._metrics.on_attempt()

    def on_told(self, job_id: str, told: Told) -> None:
        """Count steps by how far they are since the last time; the first time tells no number."""
        if told.kind is not EventKind.PROGRESS:
            return
        expert, step = str(told.data.get("expert", "")), told.data.get("step")
        speed = told.data.get("images_per_s")
        if isinstance(speed, int | float):
            self._speeds.setdefault(job_id, {})[expert] = float(speed)
        if isinstance(step, int):
            if step == told.data.get("num_steps"):
                self._speeds.get(job_id, {}).pop(expert, None)
            known = self._steps.setdefault(job_id, {})
            gone = max(0, step - known.get(expert, step))
            self._metrics.on_steps(expert=expert, num_steps=gone)
            known[expert] = step

    def on_fault(self, reason: str) -> None:
        """Count a fault."""
        self._metrics.on_fault(reason)

    def on_claimed(self, waited_s: float) -> None:
        """Note a job's first start."""
        self._metrics.on_wait(waited_s)

    def on_ended(self, job_id: str) -> None:
        """Forget a job."""
        self._steps.pop(job_id, None)
        self._speeds.pop(job_id, None)


def reading(runs: Mapping[str, JobRun], counts: Counts) -> TrainingReading:
    """Return what a scrape reads of the jobs that are owned now."""
    jobs: dict[str, int] = {}
    for run in runs.values():
        jobs[run.state.value] = jobs.get(run.state.value, 0) + 1
    return TrainingReading(
        jobs=jobs,
        images_per_s=counts.images_per_s,
        heartbeat_age_s=max((run.silent_s for run in runs.values()), default=0.0),
    )
