"""What the control plane asks of its ledger, of the ways to start a worker, and of names."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from diptych.training.events import Event, Told
from diptych.training.ledger.jobs import Claim, Fault, Job, JobPage, NewJob
from diptych.training.states import JobState
from diptych.training.task import AttemptFolder, Wish, WorkerTask

if TYPE_CHECKING:
    from diptych.training.estimate import Estimate

__all__ = ["Checked", "Claims", "Jobs", "Launcher", "Names", "OnTold", "Running"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A job that can be run."""

    name: str
    text: str
    """Its spec as ``spec_text.to_json`` writes it."""
    estimate: "Estimate"


class Running(Protocol):
    """A worker that was started; any thread may ask."""

    @property
    def returncode(self) -> int | None:
        """Return the exit status, negative of a signal's number; None while it runs."""

    def is_alive(self) -> bool:
        """Return whether it runs."""

    def terminate(self) -> None:
        """Ask for a checkpoint and an end; does not wait."""

    def kill(self) -> None:
        """End it and all that it started, if anything of it is left; returns when it is gone."""


class Launcher(Protocol):
    """A way to start workers."""

    @property
    def max_nodes(self) -> int:
        """How many machines a job may have."""

    def num_devices(self, device: str) -> int | None:
        """Return how many devices of a kind, as settings name it, a node has; None is not known."""

    def start(
        self, folder: AttemptFolder, task: WorkerTask, *, num_devices: int, num_nodes: int
    ) -> Running:
        """Start the worker of ``folder``, where the task has been written.

        Raises:
            OSError: This machine has no room for it.
        """


class Claims(Protocol):
    """What a job's owner asks of the ledger; every call may raise ``LedgerUnavailable``."""

    def claim(self, owner: str, *, lease_s: float) -> Claim | None:
        """Take the job that is next, now preparing; None when none is."""

    def renew(self, claim: Claim, *, lease_s: float) -> Job:
        """Hold the job for ``lease_s`` from now and return it; raises ``LeaseLost``."""

    def move(
        self,
        claim: Claim,
        state: JobState,
        *,
        why: str = "",
        fault: Fault | None = None,
        result: Mapping[str, object] | None = None,
        not_before_s: float | None = None,
        has_progressed: bool = False,
    ) -> Job:
        """Move the job; raises ``LeaseLost``."""

    def append(
        self, claim: Claim, told: Sequence[tuple[int, Told]], *, attempt: int | None = None
    ) -> int:
        """Keep events by their sequence within ``attempt``, each once; raises ``LeaseLost``."""


class Jobs(Protocol):
    """What callers ask of the ledger, each for its tenant."""

    def create(self, new: NewJob) -> Job:
        """Queue a job, or return the one of the same request."""

    def get(self, job_id: str, *, tenant: str) -> Job:
        """Return a job."""

    def list(
        self,
        *,
        tenant: str,
        states: Sequence[JobState] = (),
        name_prefix: str = "",
        page_size: int = 50,
        page_token: str = "",
    ) -> JobPage:
        """Return a page of jobs, newest first."""

    def wish(self, job_id: str, wish: Wish, *, tenant: str) -> Job:
        """Ask a job to end or to stop."""

    def resume(self, job_id: str, *, tenant: str, max_active: int | None = None) -> Job:
        """Queue a job again."""

    def delete(self, job_id: str, *, tenant: str) -> None:
        """Forget a job."""

    def events(
        self, job_id: str, *, tenant: str, after: int = 0, limit: int = 500
    ) -> Sequence[Event]:
        """Return the events after one, in order."""


class Names(Protocol):
    """Where what was trained is asked for by name."""

    def point(self, tenant: str, spec: str, result: Mapping[str, object]) -> None:
        """Make the result's name mean what it holds; doing so again changes nothing.

        Raises:
            DiptychError: What was trained is not there, or the store does not answer.
        """


class OnTold(Protocol):
    """Told what happens to jobs; must return at once and never raise."""

    def on_attempt(self) -> None:
        """Note that a worker is started."""

    def on_told(self, job_id: str, told: Told) -> None:
        """Note what a worker told."""

    def on_fault(self, reason: str) -> None:
        """Note that an attempt ended badly."""

    def on_ended(self, job_id: str) -> None:
        """Note that a job was handed back."""

    def on_claimed(self, waited_s: float) -> None:
        """Note that a job was claimed for the first time, and how long it had waited."""
