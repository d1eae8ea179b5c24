"""One job in the hands of its owner, from the claim until it is handed back.

A thread of its own does what may wait for the ledger or a disk. The worker runs only while the
lease surely holds: another thread, that waits for nothing, ends it when word from the ledger has
been missing for nearly as long as the lease lasts.
"""

import logging
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from diptych.errors import DiptychError, LeaseLost, LedgerUnavailable, StoreFull, Unavailable
from diptych.training.attempt_files import (
    Heartbeat,
    earlier_attempts,
    is_worker_gone,
    job_dir,
    read_outcome,
    write_task,
    write_wish,
)
from diptych.training.decisions import (
    Ended,
    Patience,
    Retries,
    Verdict,
    is_overdue,
    must_let_go,
    verdict,
)
from diptych.training.events import EventKind, Told
from diptych.training.ledger.jobs import Claim, Fault, Job
from diptych.training.ports import Claims, Launcher, Names, OnTold, Running
from diptych.training.spec import JobSpec
from diptych.training.states import JobState
from diptych.training.tailing import EventTail, log_tail
from diptych.training.task import AttemptFolder, Outcome, Wish, WorkerTask

__all__ = ["JobRun", "Means"]

Result = TypeVar("Result")

END_SEQUENCE: Final = (1 << 31) - 1
"""Of the event that tells how an attempt ended: behind all that its worker can tell."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What every job of one owner is run with."""

    claims: Claims
    launcher: Launcher
    names: Names
    home: Path
    """Absolute."""
    task_of: Callable[[Job], WorkerTask]
    read_spec: Callable[[str], JobSpec]
    patience: Patience
    retries: Retries
    clock: Callable[[], float]
    """Seconds; never jumps."""
    chance: random.Random
    on_told: OnTold


class _LetGo(Exception):
    """The lease may lapse any moment: whatever is left to do is the next owner's."""


class JobRun:
    """Runs one claimed job; ``run`` in a thread of its own, ``check_hold`` from the guard's."""

    def __init__(self, claim: Claim, means: Means, *, claimed_at: float) -> None:
        """Take over ``claim``, which was asked for at ``claimed_at`` by the means' clock."""
        job = claim.job
        folder = job_dir(means.home, tenant=job.tenant, job_id=job.id)
        self.job_id = job.id
        self.state = job.state
        self.silent_s = 0.0
        """Since the worker's last sign of life."""
        self._claim, self._means, self._job = claim, means, job
        self._folder = AttemptFolder(job_dir=folder, attempt=job.attempt)
        self._renewed_at = claimed_at
        self._ended_attempt = job.attempt
        self._has_progressed = False
        """Whether this attempt left a checkpoint that was due, after which earlier faults no longer
        count."""
        self._drained_at: float | None = None
        self._has_let_go = threading.Event()
        self._starting = threading.Lock()
        """Held while a worker starts, so that none starts after the hold was lost."""
        self._running: Running | None = None

    @property
    def _num_faults(self) -> int:
        """How many faults before this attempt still count."""
        return 0 if self._has_progressed else self._job.num_faults

    def drain(self) -> None:
        """Have the worker leave a checkpoint and the job queued; returns at once."""
        if self._drained_at is None:
            self._drained_at = self._means.clock()

    def check_hold(self) -> None:
        """End the worker if the lease may lapse soon; never waits for the ledger."""
        now, patience = self._means.clock(), self._means.patience
        if must_let_go(renewed_at=self._renewed_at, now=now, patience=patience):
            self._let_go("the ledger has not answered for nearly as long as the lease lasts")

    def run(self) -> None:
        """Do all that there is to do for the job; returns when it is handed back, never raises."""
        try:
            self._run()
        except (LeaseLost, LedgerUnavailable, _LetGo) as lost:
            self._let_go(str(lost))
        except Exception as problem:  # noqa: BLE001 - logged, and one fault of the job's
            _log.exception("owner failed", extra={"job": self.job_id})
            self._let_go("its owner failed")
            self._give_back(problem)

    def _run(self) -> None:
        ended = self._finish_earlier()
        if ended is None and self._job.wish is None and self._drained_at is None:
            ended = self._attempt()
        self._conclude(ended or Ended(is_drained=self._drained_at is not None))

    def _finish_earlier(self) -> Ended | None:
        """Pass on what earlier attempts told; return the end of one that succeeded, if one did."""
        while not is_worker_gone(self._folder):
            self._keep()
            if self._drained_at is not None:
                return None
            self._has_let_go.wait(self._means.patience.poll_s)
        for folder in earlier_attempts(self._folder):
            self._pass_on_all(EventTail(folder.events), attempt=folder.attempt)
            outcome = read_outcome(folder)
            if outcome is not None and outcome.ending == "succeeded":
                self._ended_attempt = folder.attempt
                return Ended(outcome=outcome)
        return None

    def _attempt(self) -> Ended:
        """Start a worker, see it through and return how it ended."""
        tail = EventTail(self._folder.events)
        try:
            running = self._start()
        except (DiptychError, OSError) as error:
            reason = error.reason if isinstance(error, DiptychError) else "LAUNCH_FAILED"
            is_users = isinstance(error, DiptychError) and error.code == "INVALID_ARGUMENT"
            return Ended(cause=Fault(reason=reason, message=str(error), is_users=is_users))
        cause = self._follow(running, tail)
        running.kill()
        self._pass_on_all(tail, attempt=self._job.attempt)
        return Ended(
            outcome=read_outcome(self._folder),
            returncode=running.returncode,
            log_tail=log_tail(self._folder.log),
            cause=cause,
            is_drained=self._drained_at is not None,
        )

    def _start(self) -> Running:
        spec = self._means.read_spec(self._job.spec)
        task = self._means.task_of(self._job)
        write_task(self._folder, task)
        self._keep()
        with self._starting:
            if self._has_let_go.is_set():
                raise _LetGo("the hold was lost before the worker started")
            self._means.on_told.on_attempt()
            self._running = self._means.launcher.start(
                self._folder,
                task,
                num_devices=spec.run.num_devices,
                num_nodes=spec.run.num_nodes,
            )
        return self._running

    def _follow(self, running: Running, tail: EventTail) -> Fault | None:
        """Watch over a worker until it has ended; return why it was killed, if it was."""
        means, patience = self._means, self._means.patience
        began = means.clock()
        heartbeat = Heartbeat(self._folder, now=began)
        given: Wish | None = None
        wished_at: float | None = None
        is_told_to_end = False
        while running.is_alive():
            self._keep()
            self._pass_on(tail, attempt=self._job.attempt)
            now = means.clock()
            self.silent_s = heartbeat.silent_s(now)
            if self.silent_s > patience.heartbeat_s:
                message = f"the worker gave no sign of life for {self.silent_s:.0f} s"
                return Fault(reason="HEARTBEAT_LOST", message=message, is_users=False)
            if self._job.wish not in {None, given}:
                given, wished_at = self._wish(self._job.wish), wished_at or now
            if self._drained_at is not None and not is_told_to_end:
                running.terminate()
                is_told_to_end = True
            if self._is_drain_over() or is_overdue(
                since=wished_at, now=now, limit_s=patience.wish_s
            ):
                return None
            self._has_let_go.wait(patience.poll_s)
        return None

    def _wish(self, wish: Wish | None) -> Wish | None:
        """Pass a wish on and return it; None where the disk did not take it, to be tried again."""
        if wish is not None:
            try:
                write_wish(self._folder, wish)
            except StoreFull as error:
                _log.warning("wish not written", extra={"job": self.job_id, "why": str(error)})
                return None
        return wish

    def _conclude(self, ended: Ended) -> None:
        """Say what becomes of the job, its result named before it has succeeded."""
        self._insist(self._renew)
        if ended.outcome is not None and ended.outcome.ending == "succeeded":
            ended = self._name(ended)
        decided = verdict(
            ended,
            wish=self._job.wish,
            num_faults=self._num_faults,
            retries=self._means.retries,
            jitter=self._means.chance.random(),
        )
        self._tell_end(decided)
        if decided.state is JobState.SUCCEEDED and self.state is JobState.PREPARING:
            self._move(Verdict(state=JobState.RUNNING))
        self._move(decided)
        if decided.fault is not None:
            self._means.on_told.on_fault(decided.fault.reason)

    def _name(self, ended: Ended) -> Ended:
        """Make the result's name mean it, or return the end with why that cannot be."""
        outcome, job = ended.outcome, self._job
        assert outcome is not None, "a success has an outcome"
        try:
            self._insist(lambda: self._means.names.point(job.tenant, job.spec, outcome.result))
        except DiptychError as error:
            if isinstance(error, LeaseLost):
                raise
            fault = Fault(reason=error.reason, message=str(error), is_users=False)
            failed = Outcome(ending="failed", reason=error.reason, message=str(error))
            is_drained = self._drained_at is not None
            return Ended(outcome=failed, cause=fault, is_drained=is_drained)
        return ended

    def _tell_end(self, decided: Verdict) -> None:
        """Tell the result or the fault, behind all that the worker told."""
        told: Told | None = None
        if decided.result is not None:
            told = Told(kind=EventKind.RESULT, data=decided.result)
        elif decided.fault is not None:
            fault = decided.fault
            data = {"reason": fault.reason, "message": fault.message, "user": fault.is_users}
            told = Told(kind=EventKind.ERROR, data=data)
        if told is not None:
            numbered = [(END_SEQUENCE, told)]
            attempt = self._ended_attempt
            self._insist(lambda: self._means.claims.append(self._claim, numbered, attempt=attempt))

    def _move(self, decided: Verdict) -> None:
        self._insist(
            lambda: self._means.claims.move(
                self._claim,
                decided.state,
                why=decided.why,
                fault=decided.fault,
                result=decided.result,
                not_before_s=decided.not_before_s,
                has_progressed=self._has_progressed,
            )
        )
        self.state = decided.state

    def _pass_on_all(self, tail: EventTail, *, attempt: int) -> None:
        """Pass on all the whole lines of a worker that is gone."""
        while True:
            self._insist(lambda: self._append(tail, attempt=attempt))
            if tail.is_at_end:
                return
            tail.done()

    def _pass_on(self, tail: EventTail, *, attempt: int) -> None:
        """Pass on what a worker told since, or leave it for the next time."""
        try:
            self._append(tail, attempt=attempt)
            tail.done()
        except LedgerUnavailable as error:
            _log.warning("events wait", extra={"job": self.job_id, "why": str(error)})

    def _append(self, tail: EventTail, *, attempt: int) -> None:
        told = tail.read()
        if not told:
            return
        self._means.claims.append(self._claim, told, attempt=attempt)
        if attempt != self._job.attempt:
            return
        self._has_progressed |= any(_is_progress(one) for _, one in told)
        if self.state is JobState.PREPARING and any(_is_training(one) for _, one in told):
            self._means.claims.move(self._claim, JobState.RUNNING)
            self.state = JobState.RUNNING
        for _, one in told:
            self._means.on_told.on_told(self.job_id, one)

    def _keep(self) -> None:
        """Renew the lease where it is time to, as far as the ledger answers.

        Raises:
            LeaseLost: Another owns the job.
        """
        if self._has_let_go.is_set():
            raise _LetGo("the hold was lost")
        if self._means.clock() - self._renewed_at >= self._means.patience.renew_s:
            try:
                self._renew()
            except LedgerUnavailable as error:
                _log.warning("lease not renewed", extra={"job": self.job_id, "why": str(error)})

    def _renew(self) -> None:
        asked_at = self._means.clock()
        self._job = self._means.claims.renew(self._claim, lease_s=self._means.patience.lease_s)
        self._renewed_at = asked_at

    def _insist(self, work: Callable[[], Result]) -> Result:
        """Return what ``work`` comes to, tried again while something does not answer.

        Raises:
            LeaseLost: Another owns the job.
            Unavailable: It has not answered, and the owner must make room.
        """
        while True:
            self._keep()
            try:
                return work()
            except Unavailable as error:
                if self._is_drain_over():
                    raise
                _log.warning("tried again", extra={"job": self.job_id, "why": str(error)})
                self._has_let_go.wait(self._means.patience.poll_s)

    def _is_drain_over(self) -> bool:
        limit_s = self._means.patience.grace_s
        return is_overdue(since=self._drained_at, now=self._means.clock(), limit_s=limit_s)

    def _give_back(self, problem: Exception) -> None:
        """Count what the owner failed on as a fault, so that no job fails its owners for ever."""
        fault = Fault(reason="OWNER_FAILED", message=type(problem).__name__, is_users=False)
        decided = verdict(
            Ended(cause=fault),
            wish=self._job.wish,
            num_faults=self._num_faults,
            retries=self._means.retries,
            jitter=self._means.chance.random(),
        )
        try:
            self._means.claims.move(
                self._claim,
                decided.state,
                why=decided.why,
                fault=decided.fault,
                not_before_s=decided.not_before_s,
                has_progressed=self._has_progressed,
            )
        except Exception:  # noqa: BLE001 - then the lease lapses
            _log.exception("job not given back", extra={"job": self.job_id})

    def _let_go(self, why: str) -> None:
        """End the worker and leave the job to whoever claims it next."""
        if not self._has_let_go.is_set():
            _log.warning("job let go", extra={"job": self.job_id, "why": why})
        self._has_let_go.set()
        with self._starting:
            if self._running is not None and self._running.is_alive():
                self._running.kill()


def _is_progress(told: Told) -> bool:
    """Return whether a worker came as far as a checkpoint that no stop made it write.

    Of two experts side by side, one writes one wherever the other fails.
    """
    return told.kind is EventKind.CHECKPOINT and bool(told.data.get("is_due", True))


def _is_training(told: Told) -> bool:
    return told.kind in {EventKind.PREPARED, EventKind.PROGRESS, EventKind.CHECKPOINT}
