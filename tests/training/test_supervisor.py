"""Jobs are owned by one supervisor at a time, and each comes to the end that it should."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from diptych.errors import LedgerUnavailable, SourceUnavailable
from diptych.training.attempt_files import job_dir
from diptych.training.decisions import Patience
from diptych.training.events import EventKind
from diptych.training.ledger.jobs import Claim, Job
from diptych.training.ledger.ledger import Ledger
from diptych.training.ledger.opening import open_ledger
from diptych.training.states import JobState
from diptych.training.supervisor import Supervisor
from support import owned_jobs
from support.owned_jobs import PATIENCE, TENANT, Marks, NamesOfTests, Noted, means, new_job, until

ENDED = (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)
RUNNING = (JobState.RUNNING,)

Supervise = Callable[..., Supervisor]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'ledger.sqlite'}"


@pytest.fixture
def ledger(url: str) -> Iterator[Ledger]:
    with contextlib.closing(open_ledger(url)) as ledger:
        yield ledger


@pytest.fixture
def names() -> NamesOfTests:
    return NamesOfTests()


@pytest.fixture
def noted() -> Noted:
    return Noted()


@pytest.fixture
def supervise(
    ledger: Ledger, tmp_path: Path, names: NamesOfTests, noted: Noted
) -> Iterator[Supervise]:
    """Start supervisors that are stopped in the end."""
    with contextlib.ExitStack() as stack:

        def start(*, claims: object = None, patience: Patience = PATIENCE) -> Supervisor:
            made = means(
                claims or ledger,  # type: ignore[arg-type]
                tmp_path,
                names=names,
                noted=noted,
                patience=patience,
            )
            supervisor = Supervisor(made, owner="here", max_running=2, claim_every_s=0.05)
            supervisor.start()
            stack.callback(supervisor.stop)
            return supervisor

        yield start


def folder(tmp_path: Path, job: Job) -> Path:
    return job_dir(tmp_path, tenant=TENANT, job_id=job.id)


def kinds(ledger: Ledger, job: Job) -> list[str]:
    """Return the kinds of a job's events, a state by its own name."""
    events = ledger.events(job.id, tenant=TENANT)
    return [str(event.data.get("state", event.kind)) for event in events]


def steps(ledger: Ledger, job: Job) -> list[int]:
    events = ledger.events(job.id, tenant=TENANT)
    return [int(str(e.data["step"])) for e in events if e.kind is EventKind.PROGRESS]


def worker_pid(supervisor: Supervisor, job: Job) -> int:
    """Return the process of a job's worker."""
    running = supervisor.runs()[job.id]._running
    return int(running.pid)  # type: ignore[union-attr]


def test_job_is_run_named_and_told_in_order(
    ledger: Ledger, supervise: Supervise, names: NamesOfTests
) -> None:
    job = new_job(ledger, steps=2)
    supervise()
    ended = until(ledger, job, ENDED)
    assert (ended.state, ended.result and ended.result["name"]) == (JobState.SUCCEEDED, "huggy")
    assert names.pointed == [(TENANT, "huggy")]
    told = ["queued", "preparing", "prepared", "running", "progress", "progress", "result"]
    assert sorted(kinds(ledger, job)) == sorted([*told, "succeeded"])
    assert kinds(ledger, job)[-2:] == ["result", "succeeded"]
    assert steps(ledger, job) == [1, 2]


def test_crash_is_tried_again_from_where_it_was(ledger: Ledger, supervise: Supervise) -> None:
    job = new_job(ledger, steps=4, crash_at=3)
    supervise()
    ended = until(ledger, job, ENDED)
    assert (ended.state, ended.attempt, ended.num_faults) == (JobState.SUCCEEDED, 2, 1)
    assert steps(ledger, job) == [1, 2, 3, 4]


def test_what_a_lost_worker_printed_last_is_in_the_fault(
    ledger: Ledger, supervise: Supervise
) -> None:
    job = new_job(ledger, steps=4, crash_at=3, on=[1, 2, 3])
    supervise()
    ended = until(ledger, job, ENDED)
    assert ended.fault is not None
    assert (ended.state, ended.fault.reason) == (JobState.FAILED, "WORKER_LOST")
    assert "ended with status 3" in ended.fault.message
    assert "out of luck" in ended.fault.message


def test_attempts_that_come_further_are_not_counted_together(
    ledger: Ledger, supervise: Supervise
) -> None:
    job = new_job(ledger, steps=5, crash_after=True)
    supervise()
    ended = until(ledger, job, ENDED)
    assert (ended.state, ended.attempt, ended.num_faults) == (JobState.SUCCEEDED, 6, 1)


def test_checkpoints_that_a_stop_made_it_write_do_not_begin_the_count_anew(
    ledger: Ledger, supervise: Supervise
) -> None:
    job = new_job(ledger, steps=50, crash_after=True, is_due=False)
    supervise()
    ended = until(ledger, job, ENDED)
    assert (ended.state, ended.attempt) == (JobState.FAILED, 3)


def test_job_fails_after_as_many_faults_as_it_may_have(
    ledger: Ledger, supervise: Supervise, noted: Noted
) -> None:
    job = new_job(ledger, steps=4, crash_at=1, on=[1, 2, 3, 4, 5])
    supervise()
    assert until(ledger, job, ENDED).state is JobState.FAILED
    assert (noted.num_attempts, noted.faults) == (3, ["WORKER_LOST"] * 3)


def test_users_error_fails_at_once(ledger: Ledger, supervise: Supervise) -> None:
    job = new_job(ledger, fail_at=2, is_users=True)
    supervise()
    ended = until(ledger, job, ENDED)
    assert ended.fault is not None
    assert (ended.attempt, ended.fault.reason) == (1, "LOSS_NOT_FINITE")
    assert kinds(ledger, job)[-2:] == ["error", "failed"]


def test_killed_worker_is_tried_again(ledger: Ledger, supervise: Supervise) -> None:
    job = new_job(ledger, steps=20, step_s=0.02)
    supervisor = supervise()
    until(ledger, job, RUNNING)
    os.kill(worker_pid(supervisor, job), signal.SIGKILL)
    ended = until(ledger, job, ENDED)
    assert (ended.state, ended.attempt) == (JobState.SUCCEEDED, 2)


def test_silent_worker_is_killed_and_tried_again(
    ledger: Ledger, supervise: Supervise, noted: Noted, tmp_path: Path
) -> None:
    job = new_job(ledger, steps=3, hang_at=2)
    supervise(patience=replace(PATIENCE, heartbeat_s=2.0))
    assert until(ledger, job, ENDED).state is JobState.SUCCEEDED
    assert noted.faults == ["HEARTBEAT_LOST"]
    assert not Marks(folder(tmp_path, job) / "marks").overlap()


@pytest.mark.parametrize(
    ("wish", "state"), [("cancel", JobState.CANCELLED), ("pause", JobState.PAUSED)]
)
def test_wish_stops_the_worker_at_a_checkpoint(
    wish: str, state: JobState, ledger: Ledger, supervise: Supervise
) -> None:
    job = new_job(ledger, steps=1000, step_s=0.02)
    supervise()
    until(ledger, job, RUNNING)
    ledger.wish(job.id, wish, tenant=TENANT)  # type: ignore[arg-type]
    assert until(ledger, job, (state,)).num_faults == 0


def test_paused_job_goes_on_where_it_was(ledger: Ledger, supervise: Supervise) -> None:
    job = new_job(ledger, steps=120, step_s=0.02)
    supervise()
    until(ledger, job, RUNNING)
    ledger.wish(job.id, "pause", tenant=TENANT)
    until(ledger, job, (JobState.PAUSED,))
    ledger.resume(job.id, tenant=TENANT)
    until(ledger, job, ENDED)
    assert steps(ledger, job) == list(range(1, 121))


def test_worker_that_does_not_heed_a_wish_is_killed(ledger: Ledger, supervise: Supervise) -> None:
    job = new_job(ledger, steps=10_000, step_s=0.01, heedless=True)
    supervise(patience=replace(PATIENCE, wish_s=0.3))
    until(ledger, job, RUNNING)
    ledger.wish(job.id, "cancel", tenant=TENANT)
    assert until(ledger, job, ENDED).state is JobState.CANCELLED


def test_drain_leaves_a_checkpoint_and_the_job_queued(ledger: Ledger, supervise: Supervise) -> None:
    job = new_job(ledger, steps=1000, step_s=0.02)
    supervisor = supervise()
    until(ledger, job, RUNNING)
    supervisor.stop()
    left = ledger.get(job.id, tenant=TENANT)
    assert (left.state, left.num_faults, left.owner) == (JobState.QUEUED, 0, None)


def test_drain_does_not_wait_for_a_deaf_worker(ledger: Ledger, supervise: Supervise) -> None:
    job = new_job(ledger, steps=10_000, step_s=0.02, deaf=True)
    supervisor = supervise(patience=replace(PATIENCE, grace_s=0.3))
    until(ledger, job, RUNNING)
    supervisor.stop()
    left = ledger.get(job.id, tenant=TENANT)
    assert (left.state, left.num_faults) == (JobState.QUEUED, 0)


def test_name_that_cannot_be_moved_yet_is_moved_later(
    ledger: Ledger, supervise: Supervise, names: NamesOfTests
) -> None:
    names.problems = [SourceUnavailable("s3", "no answer")]
    job = new_job(ledger)
    supervise()
    assert until(ledger, job, ENDED).state is JobState.SUCCEEDED
    assert names.pointed == [(TENANT, "huggy")]


class Cut:
    """A ledger whose line can be cut."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.is_cut = threading.Event()

    def __getattr__(self, name: str) -> object:
        if self.is_cut.is_set():
            raise LedgerUnavailable("test", "the line is cut")
        return getattr(self._ledger, name)


def test_worker_dies_before_another_owner_may_start_when_the_ledger_is_cut_off(
    ledger: Ledger, supervise: Supervise, tmp_path: Path
) -> None:
    job = new_job(ledger, steps=60, step_s=0.02)
    cut = Cut(ledger)
    first = supervise(claims=cut)
    until(ledger, job, RUNNING)
    cut.is_cut.set()
    first.begin_drain()
    supervise()
    ended = until(ledger, job, ENDED)
    assert (ended.state, ended.attempt) == (JobState.SUCCEEDED, 2)
    assert not Marks(folder(tmp_path, job) / "marks").overlap()


def test_owner_goes_on_looking_after_an_error_that_nobody_foresaw(
    ledger: Ledger, supervise: Supervise
) -> None:
    class OnceBroken:
        def __init__(self) -> None:
            self.problems = [ZeroDivisionError()]

        def claim(self, owner: str, *, lease_s: float) -> Claim | None:
            if self.problems:
                raise self.problems.pop()
            return ledger.claim(owner, lease_s=lease_s)

        def __getattr__(self, name: str) -> object:
            return getattr(ledger, name)

    job = new_job(ledger, steps=1)
    supervise(claims=OnceBroken())
    assert until(ledger, job, ENDED).state is JobState.SUCCEEDED


def test_worker_is_killed_when_its_lease_was_lost(
    ledger: Ledger, supervise: Supervise, tmp_path: Path
) -> None:
    job = new_job(ledger, steps=1000, step_s=0.02)
    supervisor = supervise()
    until(ledger, job, RUNNING)
    run = supervisor.runs()[job.id]
    run._claim = Claim(job=run._job, owner="here", fence=99)
    while job.id in supervisor.runs() and supervisor.runs()[job.id] is run:
        threading.Event().wait(0.02)
    assert not run._running.is_alive()  # type: ignore[union-attr]


@contextlib.contextmanager
def supervisor_process(url: str, home: Path, owner: str) -> Iterator["subprocess.Popen[str]"]:
    """Run a supervisor as a process of its own."""
    command = [sys.executable, owned_jobs.__file__, url, str(home), owner]
    paths = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "services")]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": os.pathsep.join(paths)},
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_another_supervisor_takes_over_from_one_that_was_killed(
    url: str, ledger: Ledger, supervise: Supervise, tmp_path: Path
) -> None:
    job = new_job(ledger, steps=30, step_s=0.02)
    with supervisor_process(url, tmp_path, "other") as other:
        until(ledger, job, RUNNING)
        other.kill()
        other.wait()
    supervise()
    ended = until(ledger, job, ENDED)
    assert (ended.state, ended.attempt) == (JobState.SUCCEEDED, 2)
    assert steps(ledger, job) == list(range(1, 31))
    assert not Marks(folder(tmp_path, job) / "marks").overlap()
