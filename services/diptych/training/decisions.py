"""What the owner of a job does about what it sees: functions of values, without clocks or files."""

import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from diptych.training.ledger.jobs import Fault
from diptych.training.states import JobState
from diptych.training.task import Outcome, Wish

__all__ = [
    "Ended",
    "Patience",
    "Retries",
    "Verdict",
    "backoff_s",
    "is_overdue",
    "must_let_go",
    "verdict",
]

WISHED: Final[Mapping[Wish, JobState]] = {
    "cancel": JobState.CANCELLED,
    "pause": JobState.PAUSED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long an owner waits, in seconds."""

    lease_s: float = 30.0
    """How long a job stays ours without word from us."""
    heartbeat_s: float = 300.0
    """How long a worker may be silent."""
    grace_s: float = 30.0
    """How long a worker may take to leave a checkpoint when it is told to end."""
    wish_s: float = 600.0
    """How long a worker may take over what was wished: its longest step, and a checkpoint."""
    poll_s: float = 0.2
    """Between two looks at a worker."""

    @property
    def renew_s(self) -> float:
        """Between two renewals of the lease, each of which also brings wishes."""
        return min(self.lease_s / 3, 2.0)

    @property
    def hold_s(self) -> float:
        """How long after its last renewal a worker may run: the lease less what ending it takes."""
        return self.lease_s * 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """How often and when a job is tried again after a fault that is not its user's."""

    max_attempts: int = 5
    """Faults in a row, without a new checkpoint between, after which a job has failed."""
    backoff_s: float = 5.0
    """After the first fault; doubles with each."""
    max_backoff_s: float = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How an attempt ended, as its owner saw it."""

    outcome: Outcome | None = None
    """What the worker said, if it came to that."""
    returncode: int | None = None
    log_tail: str = ""
    cause: Fault | None = None
    """Why the owner ended it, or could not begin it."""
    is_drained: bool = False
    """Whether the owner asked it to make room."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What becomes of a job after an attempt."""

    state: JobState
    why: str = ""
    fault: Fault | None = None
    result: Mapping[str, object] | None = None
    not_before_s: float | None = None


def verdict(
    ended: Ended, *, wish: Wish | None, num_faults: int, retries: Retries, jitter: float
) -> Verdict:
    """Return what becomes of a job.

    Args:
        ended: How its attempt ended.
        wish: What its user asked for meanwhile; it is granted unless the job came to an end.
        num_faults: Faults before this attempt that still count.
        retries: How often it may be tried again.
        jitter: In [0, 1], drawn anew for each fault.
    """
    outcome, fault = ended.outcome, fault_of(ended)
    if outcome is not None and outcome.ending == "succeeded":
        return Verdict(state=JobState.SUCCEEDED, result=outcome.result)
    if fault.is_users:
        return Verdict(state=JobState.FAILED, why=fault.message, fault=fault)
    if wish is not None:
        return Verdict(state=WISHED[wish], why=f"as wished: {wish}")
    if ended.is_drained:
        return Verdict(state=JobState.QUEUED, why="its server shut down")
    if outcome is not None and outcome.ending != "failed":
        why = f"its worker was {outcome.ending}"
        return Verdict(state=JobState.QUEUED, why=why, not_before_s=retries.backoff_s)
    if num_faults + 1 >= retries.max_attempts:
        why = f"fault {num_faults + 1} of {retries.max_attempts}: {fault.message}"
        return Verdict(state=JobState.FAILED, why=why, fault=fault)
    wait_s = backoff_s(num_faults + 1, retries=retries, jitter=jitter)
    why = f"tried again in {wait_s:.1f} s: {fault.message}"
    return Verdict(state=JobState.QUEUED, why=why, fault=fault, not_before_s=wait_s)


def fault_of(ended: Ended) -> Fault:
    """Return why an attempt ended badly."""
    if ended.cause is not None:
        return ended.cause
    if ended.outcome is not None:
        told = ended.outcome
        return Fault(reason=told.reason, message=told.message, is_users=told.is_users)
    message = f"the worker {_how(ended.returncode)} and said no outcome"
    if ended.log_tail:
        message += f"; its log ends with: {ended.log_tail}"
    return Fault(reason="WORKER_LOST", message=message, is_users=False)


def backoff_s(num_faults: int, *, retries: Retries, jitter: float) -> float:
    """Return the seconds until a job is tried again: half of what doubles, and a part of the rest.

    Args:
        num_faults: From 1.
        retries: The first wait and the longest.
        jitter: In [0, 1].
    """
    doubled = retries.backoff_s * 2.0 ** min(num_faults - 1, 32)
    return min(doubled, retries.max_backoff_s) * (0.5 + 0.5 * jitter)


def must_let_go(*, renewed_at: float, now: float, patience: Patience) -> bool:
    """Return whether a worker must end, since another owner may soon begin its job.

    Args:
        renewed_at: When the last renewal that succeeded was asked for, by a clock that never jumps.
        now: By the same clock.
        patience: The lease.
    """
    return now - renewed_at >= patience.hold_s


def is_overdue(*, since: float | None, now: float, limit_s: float) -> bool:
    """Return whether more than ``limit_s`` have gone by; None never began."""
    return since is not None and now - since > limit_s


def _how(returncode: int | None) -> str:
    if returncode is None:
        return "ended"
    if returncode >= 0:
        return f"ended with status {returncode}"
    try:
        return f"was ended by {signal.Signals(-returncode).name}"
    except ValueError:
        return f"was ended by signal {-returncode}"
