"""Owns jobs: claims as many as it may, runs each in a thread, and hands them back.

Threads: one claims, one guards the leases of all jobs, and each job has one. Several supervisors,
here or on other machines, share the jobs of one ledger.
"""

import logging
import threading
from collections.abc import Mapping
from typing import Final

from diptych.errors import DiptychError
from diptych.training.job_run import JobRun, Means
from diptych.training.ledger.jobs import Claim

__all__ = ["Supervisor"]

GUARD_S: Final = 0.1
JOIN_S: Final = 10.0

_log = logging.getLogger(__name__)


class Supervisor:
    """Runs jobs between ``start`` and ``stop``; owns the threads and what they run."""

    def __init__(
        self, means: Means, *, owner: str, max_running: int, claim_every_s: float = 1.0
    ) -> None:
        """Prepare to own jobs.

        Args:
            means: What jobs are run with.
            owner: Names this supervisor; no other one, and none before, may have the name.
            max_running: Jobs at the same time.
            claim_every_s: Between two looks for a job that waits.
        """
        self._means, self._owner = means, owner
        self._max_running, self._claim_every_s = max_running, claim_every_s
        self._runs: dict[str, JobRun] = {}
        self._threads: dict[str, threading.Thread] = {}
        self._stopping = threading.Event()
        self._stopped = threading.Event()
        self._look = threading.Event()
        """Set when there may be a job to claim, or room for one."""
        self._claiming = threading.Thread(target=self._claim_jobs, name="claims", daemon=True)
        self._guarding = threading.Thread(target=self._guard, name="leases", daemon=True)

    def start(self) -> None:
        """Begin to claim jobs."""
        self._guarding.start()
        self._claiming.start()

    def hurry(self) -> None:
        """Look for a job now: one was made."""
        self._look.set()

    def runs(self) -> Mapping[str, JobRun]:
        """Return the jobs that are owned now, by id."""
        return dict(self._runs)

    def begin_drain(self) -> None:
        """Claim no more, and have each worker leave a checkpoint and its job queued."""
        self._stopping.set()
        self._look.set()
        for run in self.runs().values():
            run.drain()

    def stop(self) -> None:
        """Drain, and return when every job is handed back."""
        self.begin_drain()
        if self._claiming.ident is not None:
            self._claiming.join()
        for run in self.runs().values():
            run.drain()
        for thread in tuple(self._threads.values()):
            thread.join()
        self._stopped.set()
        if self._guarding.ident is not None:
            self._guarding.join(JOIN_S)

    def _claim_jobs(self) -> None:
        while not self._stopping.is_set():
            self._look.clear()
            if len(self._runs) < self._max_running and self._claim():
                continue
            self._look.wait(self._claim_every_s)

    def _claim(self) -> bool:
        """Claim a job if one is to be had, and tell whether."""
        patience, clock = self._means.patience, self._means.clock
        asked_at = clock()
        try:
            claim = self._means.claims.claim(self._owner, lease_s=patience.lease_s)
        except DiptychError as error:
            _log.warning("no job claimed", extra={"why": str(error)})
            return False
        except Exception:  # noqa: BLE001 - an owner that looks no more would be idle for good
            _log.exception("no job claimed")
            return False
        if claim is None:
            return False
        self._begin(claim, asked_at)
        return True

    def _begin(self, claim: Claim, asked_at: float) -> None:
        job = claim.job
        _log.info("job claimed", extra={"job": job.id, "attempt": job.attempt})
        if job.attempt == 1 and job.started_at is not None:
            self._means.on_told.on_claimed((job.started_at - job.created_at).total_seconds())
        run = JobRun(claim, self._means, claimed_at=asked_at)
        thread = threading.Thread(target=self._run, args=(run,), name=f"job-{job.id}", daemon=True)
        self._runs[job.id], self._threads[job.id] = run, thread
        thread.start()

    def _run(self, run: JobRun) -> None:
        try:
            run.run()
        finally:
            self._means.on_told.on_ended(run.job_id)
            del self._runs[run.job_id]
            del self._threads[run.job_id]
            self._look.set()

    def _guard(self) -> None:
        """End workers whose lease may lapse; asks nothing of any ledger."""
        while not self._stopped.wait(GUARD_S):
            for run in self.runs().values():
                run.check_hold()
