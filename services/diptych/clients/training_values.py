"""Training jobs and their events as a client sees them, as plain values."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

__all__ = [
    "CheckpointWritten",
    "CreatedJob",
    "Event",
    "JobCall",
    "JobEstimate",
    "JobFault",
    "JobProgress",
    "JobResult",
    "ListCall",
    "PicturePainted",
    "Prepared",
    "StateChange",
    "TimestepHistogram",
    "TrainingEvent",
    "TrainingJob",
    "Unknown",
    "Warned",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobCall:
    """A job to create."""

    spec: str
    """The job file's text, YAML or JSON."""
    priority: int = 0
    """Higher ones start first, -100 to 100."""
    request_id: str = ""
    """A UUID; the same one again is the same job. Empty: one is drawn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListCall:
    """Which jobs to list."""

    states: tuple[str, ...] = ()
    """As ``TrainingJob.state``; empty lists all."""
    name_prefix: str = ""
    page_size: int = 0
    """0 is the server's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFault:
    """Why a job, or an attempt at it, ended badly."""

    reason: str
    message: str
    is_users: bool
    """Whether it would come again: the spec or the data must change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimestepHistogram:
    """How often an expert was trained on which timesteps."""

    first_timestep: int
    last_timestep: int
    """Included."""
    bin_width: int
    bins: tuple[int, ...]
    """Trained samples; the first bin begins at timestep 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobResult:
    """What a job made."""

    name: str
    digests: Mapping[str, str]
    """By expert: base, refiner or single."""
    timesteps: Mapping[str, TimestepHistogram]
    """By expert."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEstimate:
    """What a job would take, as far as can be told before it runs."""

    peak_memory_bytes: int | None
    """Of one device; None, as of the next two, where the server never fetched a model."""
    disk_bytes: int | None
    num_trained_parameters: int | None
    num_steps: int | None
    """Of one expert; None where the job says epochs."""
    seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StateChange:
    """The job moved."""

    state: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """The dataset is there; training begins."""

    num_images: int
    num_embeddings: int
    num_encoded: int
    num_parameters: int


@dataclass(frozen=True, slots=True, kw_only=True)
class JobProgress:
    """How far the job is."""

    expert: str
    step: int
    num_steps: int
    epoch: float
    loss: float
    learning_rates: Mapping[str, float]
    """By group of what is trained."""
    grad_norm: float
    images_per_s: float
    memory_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointWritten:
    """The job can go on from there."""

    expert: str
    step: int
    digest: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PicturePainted:
    """A picture was painted while training."""

    digest: str
    label: str
    step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Warned:
    """Something a person should know; the job goes on."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown:
    """A kind of event that this version does not know."""


Event = (
    StateChange
    | Prepared
    | JobProgress
    | CheckpointWritten
    | PicturePainted
    | Warned
    | JobFault
    | JobResult
    | Unknown
)
"""What happened."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingEvent:
    """Something that happened to a job."""

    number: int
    """From 1, without gaps."""
    at: datetime
    """In UTC, by the ledger's clock."""
    attempt: int
    event: Event


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingJob:
    """A job as it was when the server answered."""

    job_id: str
    name: str
    state: str
    """queued, preparing, running, paused, succeeded, failed or cancelled."""
    wish: str | None
    """cancel or pause, where that was asked and has not happened yet."""
    priority: int
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    attempt: int
    num_faults: int
    fault: JobFault | None
    result: JobResult | None
    last_event: int
    progress: JobProgress | None
    """None in listings."""
    spec: str
    """JSON; empty in listings."""
    request_id: str

    @property
    def has_ended(self) -> bool:
        """Whether nothing happens to it by itself any more."""
        return self.state in {"succeeded", "failed", "cancelled"}


@dataclass(frozen=True, slots=True, kw_only=True)
class CreatedJob:
    """A job that waits now, with what it would take."""

    job: TrainingJob | None
    """None where the job was only checked."""
    estimate: JobEstimate
