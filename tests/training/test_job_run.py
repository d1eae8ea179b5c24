"""A job's owner acts only while its lease surely holds; ``test_supervisor`` has real workers."""

import contextlib
import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from diptych.errors import AdapterNotFound, JobInvalid, LedgerUnavailable, StoreFull
from diptych.training.attempt_files import job_dir, write_task
from diptych.training.events import EventKind, Told
from diptych.training.job_run import JobRun, Means
from diptych.training.ledger.jobs import Claim, Job
from diptych.training.ledger.ledger import Ledger
from diptych.training.ledger.opening import open_ledger
from diptych.training.states import JobState
from diptych.training.tailing import event_line
from diptych.training.task import AttemptFolder, Outcome, WorkerTask
from support.owned_jobs import TENANT, NamesOfTests, means, new_job

RESULT = {"name": "huggy", "digests": {"single": "sha256:" + "0" * 64}}


class Worker:
    """A worker that ends when it is told to, or once it was looked at so many times."""

    def __init__(self, num_looks: int = 1) -> None:
        self.num_looks, self.signals = num_looks, list[str]()

    @property
    def returncode(self) -> int | None:
        return None if self.num_looks else -9

    def is_alive(self) -> bool:
        self.num_looks = max(0, self.num_looks - 1)
        return self.num_looks > 0

    def terminate(self) -> None:
        self.signals.append("term")

    def kill(self) -> None:
        self.signals.append("kill")
        self.num_looks = 0


class Starts:
    """Starts ``worker``, or raises."""

    max_nodes = 1

    def __init__(self, worker: Worker, problem: Exception | None = None) -> None:
        self.worker, self.problem, self.tasks = worker, problem, list[WorkerTask]()

    def num_devices(self, device: str) -> int | None:
        del device
        return None

    def start(
        self, folder: AttemptFolder, task: WorkerTask, *, num_devices: int, num_nodes: int
    ) -> Worker:
        del folder, num_devices, num_nodes
        self.tasks.append(task)
        if self.problem is not None:
            raise self.problem
        return self.worker


class Clock:
    """Seconds that go by when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with contextlib.closing(open_ledger(f"sqlite:///{tmp_path / 'ledger.sqlite'}")) as ledger:
        yield ledger


@pytest.fixture
def starts() -> Starts:
    return Starts(Worker())


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def names() -> NamesOfTests:
    return NamesOfTests()


@pytest.fixture
def given(
    ledger: Ledger, starts: Starts, clock: Clock, names: NamesOfTests, tmp_path: Path
) -> Means:
    return replace(means(ledger, tmp_path, names=names, clock=clock), launcher=starts)


def claimed(ledger: Ledger) -> Claim:
    claim = ledger.claim("here", lease_s=1000.0)
    assert claim is not None
    return claim


def run(claim: Claim, given: Means) -> None:
    JobRun(claim, given, claimed_at=given.clock()).run()


def state(ledger: Ledger, job: Job) -> JobState:
    return ledger.get(job.id, tenant=TENANT).state


def left(tmp_path: Path, job: Job, outcome: Outcome | None, told: Sequence[Told] = ()) -> None:
    """Leave the files of a first attempt."""
    folder = AttemptFolder(job_dir=job_dir(tmp_path, tenant=TENANT, job_id=job.id), attempt=1)
    task = WorkerTask(
        job_id=job.id, tenant=TENANT, attempt=1, spec="{}", home="", cache_address="a:1"
    )
    write_task(folder, task)
    folder.events.write_bytes(b"".join(map(event_line, told)))
    if outcome is not None:
        folder.outcome.write_text(outcome.to_json())


def handed_on(ledger: Ledger, first: Claim) -> Claim:
    """Return the claim of the owner after ``first``."""
    ledger.renew(first, lease_s=-1.0)
    return claimed(ledger)


def test_guard_kills_the_worker_when_the_lease_may_lapse(
    ledger: Ledger, given: Means, clock: Clock, starts: Starts
) -> None:
    new_job(ledger)
    owned = JobRun(claimed(ledger), given, claimed_at=clock())
    owned._running = starts.worker
    starts.worker.num_looks = 5
    clock.now += given.patience.hold_s - 0.01
    owned.check_hold()
    assert starts.worker.signals == []
    clock.now += 0.01
    owned.check_hold()
    assert starts.worker.signals == ["kill"]


def test_no_worker_starts_after_the_hold_was_lost(
    ledger: Ledger, given: Means, clock: Clock, starts: Starts
) -> None:
    job = new_job(ledger)
    owned = JobRun(claimed(ledger), given, claimed_at=clock())
    clock.now += given.patience.lease_s
    owned.check_hold()
    owned.run()
    assert (starts.tasks, state(ledger, job)) == ([], JobState.PREPARING)


def test_task_says_what_the_job_is(ledger: Ledger, given: Means, starts: Starts) -> None:
    job = new_job(ledger, steps=7)
    run(claimed(ledger), given)
    (task,) = starts.tasks
    assert (task.job_id, task.tenant, task.attempt) == (job.id, TENANT, 1)
    assert json.loads(task.spec) == {"steps": 7}


@pytest.mark.parametrize(
    ("problem", "reason", "ended"),
    [
        (OSError(12, "no memory"), "LAUNCH_FAILED", JobState.QUEUED),
        (StoreFull(location="l", size_bytes=1), "STORE_FULL", JobState.QUEUED),
        (JobInvalid([]), "JOB_INVALID", JobState.FAILED),
    ],
)
def test_worker_that_cannot_be_started_is_a_fault(
    problem: Exception,
    reason: str,
    ended: JobState,
    ledger: Ledger,
    given: Means,
    starts: Starts,
) -> None:
    job = new_job(ledger)
    starts.problem = problem
    run(claimed(ledger), given)
    found = ledger.get(job.id, tenant=TENANT)
    assert found.fault is not None
    assert (found.fault.reason, found.state) == (reason, ended)


def test_wish_that_came_before_is_granted_without_a_worker(
    ledger: Ledger, given: Means, starts: Starts
) -> None:
    job = new_job(ledger)
    claim = claimed(ledger)
    asked = ledger.wish(job.id, "pause", tenant=TENANT)
    run(replace(claim, job=asked), given)
    assert (starts.tasks, state(ledger, job)) == ([], JobState.PAUSED)


def test_success_that_an_earlier_owner_left_is_concluded_without_a_worker(
    ledger: Ledger, given: Means, starts: Starts, names: NamesOfTests, tmp_path: Path
) -> None:
    job = new_job(ledger)
    first = claimed(ledger)
    left(tmp_path, job, Outcome(ending="succeeded", result=RESULT))
    run(handed_on(ledger, first), given)
    assert (starts.tasks, state(ledger, job)) == ([], JobState.SUCCEEDED)
    assert names.pointed == [(TENANT, "huggy")]


def test_result_is_told_once_though_two_owners_conclude(
    ledger: Ledger, given: Means, tmp_path: Path
) -> None:
    job = new_job(ledger)
    first = claimed(ledger)
    left(tmp_path, job, Outcome(ending="succeeded", result=RESULT))
    second = handed_on(ledger, first)
    ledger.append(second, [((1 << 31) - 1, Told(kind=EventKind.RESULT, data=RESULT))], attempt=1)
    run(handed_on(ledger, second), given)
    kinds = [event.kind for event in ledger.events(job.id, tenant=TENANT)]
    assert kinds.count(EventKind.RESULT) == 1


def test_lines_that_an_earlier_owner_left_are_passed_on_once(
    ledger: Ledger, given: Means, tmp_path: Path
) -> None:
    job = new_job(ledger)
    first = claimed(ledger)
    told = [Told(kind=EventKind.PROGRESS, data={"step": step}) for step in (1, 2, 3)]
    left(tmp_path, job, None, told)
    ledger.append(first, [(1, told[0])])
    run(handed_on(ledger, first), given)
    events = ledger.events(job.id, tenant=TENANT)
    steps = [(e.attempt, e.data["step"]) for e in events if e.kind is EventKind.PROGRESS]
    assert steps == [(1, 1), (1, 2), (1, 3)]


def test_result_that_is_not_there_is_a_fault(
    ledger: Ledger, given: Means, names: NamesOfTests, tmp_path: Path
) -> None:
    job = new_job(ledger)
    first = claimed(ledger)
    left(tmp_path, job, Outcome(ending="succeeded", result=RESULT))
    names.problems = [AdapterNotFound("sha256:0")]
    run(handed_on(ledger, first), given)
    found = ledger.get(job.id, tenant=TENANT)
    assert found.fault is not None
    assert (found.state, found.fault.reason) == (JobState.QUEUED, "ADAPTER_NOT_FOUND")


def test_lost_lease_moves_nothing(ledger: Ledger, given: Means) -> None:
    job = new_job(ledger)
    first = claimed(ledger)
    second = handed_on(ledger, first)
    run(first, given)
    found = ledger.get(job.id, tenant=TENANT)
    assert (found.state, found.fence) == (JobState.PREPARING, second.fence)


class Hiccups:
    """A ledger whose every call fails the first time."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger, self._seen = ledger, set[str]()

    def __getattr__(self, name: str) -> object:
        if name not in self._seen:
            self._seen.add(name)
            raise LedgerUnavailable("test", "hiccup")
        return getattr(self._ledger, name)


def test_ledger_that_hiccups_is_asked_again(ledger: Ledger, given: Means, tmp_path: Path) -> None:
    job = new_job(ledger)
    first = claimed(ledger)
    left(tmp_path, job, Outcome(ending="succeeded", result=RESULT))
    claim = handed_on(ledger, first)
    run(claim, replace(given, claims=Hiccups(ledger)))  # type: ignore[arg-type]
    assert state(ledger, job) is JobState.SUCCEEDED


def test_drain_before_the_start_queues_the_job(
    ledger: Ledger, given: Means, starts: Starts, clock: Clock
) -> None:
    job = new_job(ledger)
    owned = JobRun(claimed(ledger), given, claimed_at=clock())
    owned.drain()
    owned.run()
    assert (starts.tasks, state(ledger, job)) == ([], JobState.QUEUED)


def test_owner_that_fails_leaves_no_worker(ledger: Ledger, given: Means, starts: Starts) -> None:
    new_job(ledger)
    starts.worker.num_looks = 5

    class Broken:
        def __getattr__(self, name: str) -> object:
            raise ZeroDivisionError

    owned = JobRun(claimed(ledger), replace(given, claims=Broken()), claimed_at=0.0)  # type: ignore[arg-type]
    owned._running = starts.worker
    owned.run()
    assert starts.worker.signals == ["kill"]


def test_job_on_which_its_owner_fails_does_so_only_as_often_as_it_may(
    ledger: Ledger, given: Means, tmp_path: Path
) -> None:
    job = new_job(ledger)
    first = claimed(ledger)
    left(tmp_path, job, None, [Told(kind=EventKind.WARNING, data={"message": "\udcff"})])
    claim = handed_on(ledger, first)
    for _ in range(given.retries.max_attempts - 1):
        run(claim, given)
        assert state(ledger, job) is JobState.QUEUED
        while (found := ledger.claim("here", lease_s=1000.0)) is None:
            threading.Event().wait(0.02)
        claim = found
    run(claim, given)
    failed = ledger.get(job.id, tenant=TENANT)
    assert failed.fault is not None
    assert (failed.state, failed.fault.reason) == (JobState.FAILED, "OWNER_FAILED")
