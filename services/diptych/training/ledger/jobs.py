"""What the ledger takes and gives: values, none of which follow what happens afterwards."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from diptych.training.states import JobState
from diptych.training.task import Wish

__all__ = ["Claim", "Fault", "Job", "JobPage", "NewJob"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Why a job failed, or was sent back to the queue."""

    reason: str
    """An error's stable reason."""
    message: str
    is_users: bool
    """Whether it would come again until the user changes something."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewJob:
    """What is asked for when a job is created."""

    tenant: str
    name: str
    spec: str
    """As ``spec_text.to_json`` wrote it."""
    request_id: str = ""
    """Under which the same call may come again; with an empty one each call makes a job."""
    priority: int = 0
    """Higher ones are claimed first."""
    max_active: int | None = None
    """How many jobs of the tenant may be in a state that is not ended, this one included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job as it stood when the ledger was asked; instants are UTC, by the database's clock."""

    id: str
    tenant: str
    name: str
    state: JobState
    spec: str
    request_id: str
    priority: int
    created_at: datetime
    started_at: datetime | None
    """When its first owner claimed it."""
    ended_at: datetime | None
    attempt: int
    """How often it was claimed: which start of its worker is the latest; 0 before any."""
    num_faults: int
    """How many faults in a row sent it back to the queue: since it was created or resumed, or came
    further than before."""
    wish: Wish | None
    """What its owner is asked to do, where there is one."""
    owner: str | None
    fence: int
    """Grows with each claim: which owner is the latest."""
    fault: Fault | None
    """Of its latest move."""
    result: Mapping[str, object] | None
    last_event: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """The right to move one job, until its lease lapses and another claims the job."""

    job: Job
    """As it was when claimed."""
    owner: str
    fence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class JobPage:
    """Some jobs, newest first; ``next_page_token`` is empty with the last of them."""

    jobs: tuple[Job, ...]
    next_page_token: str
