"""Supervisors of fake workers over a real ledger, in this process or, as a program, in another."""

import itertools
import json
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from diptych.datasets.source_spec import FolderSource
from diptych.datasets.spec import DatasetSpec, Manifest
from diptych.training.decisions import Patience, Retries
from diptych.training.events import Told
from diptych.training.job_run import Means
from diptych.training.launchers.local import LocalLauncher
from diptych.training.ledger.jobs import Job, NewJob
from diptych.training.ledger.ledger import Ledger
from diptych.training.ledger.opening import open_ledger
from diptych.training.ports import Claims, Names, OnTold
from diptych.training.spec import JobSpec, RunSpec
from diptych.training.states import JobState
from diptych.training.supervisor import Supervisor
from diptych.training.task import WorkerTask

__all__ = ["Marks", "NamesOfTests", "Noted", "means", "new_job", "until"]

FAKE_WORKER: Final = Path(__file__).with_name("fake_worker.py")
PATIENCE: Final = Patience(lease_s=3.0, heartbeat_s=20.0, grace_s=5.0, poll_s=0.02)
RETRIES: Final = Retries(max_attempts=3, backoff_s=0.05, max_backoff_s=0.1)
TENANT: Final = "alice"
OVERALL_S: Final = 30.0


class NamesOfTests:
    """Remembers what it was told to name."""

    def __init__(self) -> None:
        self.pointed: list[tuple[str, str]] = []
        self.problems: list[Exception] = []

    def point(self, tenant: str, spec: str, result: Mapping[str, object]) -> None:
        """Remember, or raise the next problem."""
        if self.problems:
            raise self.problems.pop(0)
        self.pointed.append((tenant, str(result["name"])))


class Noted:
    """Counts what it is told."""

    def __init__(self) -> None:
        self.num_attempts, self.faults = 0, list[str]()
        self.told: list[Told] = []
        self.num_claimed = self.num_ended = 0

    def on_attempt(self) -> None:
        """Count."""
        self.num_attempts += 1

    def on_told(self, job_id: str, told: Told) -> None:
        """Keep."""
        self.told.append(told)

    def on_fault(self, reason: str) -> None:
        """Keep."""
        self.faults.append(reason)

    def on_claimed(self, waited_s: float) -> None:
        """Count."""
        self.num_claimed += 1

    def on_ended(self, job_id: str) -> None:
        """Count."""
        self.num_ended += 1


class Marks:
    """When the workers of a job lived, by attempt."""

    def __init__(self, path: Path) -> None:
        lines = [line.split() for line in path.read_text().splitlines()]
        self.lives: dict[int, list[int]] = {}
        for attempt, at in lines:
            self.lives.setdefault(int(attempt), []).append(int(at))

    def overlap(self) -> bool:
        """Return whether two workers lived at the same time."""
        lives = [self.lives[attempt] for attempt in sorted(self.lives)]
        return any(max(one) > min(after) for one, after in itertools.pairwise(lives))


def means(
    claims: Claims,
    home: Path,
    *,
    names: Names | None = None,
    patience: Patience = PATIENCE,
    noted: OnTold | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Means:
    """Return what fake workers are run with."""
    return Means(
        claims=claims,
        launcher=LocalLauncher(environment={"PATH": "/usr/bin:/bin"}, worker=[str(FAKE_WORKER)]),
        names=names or NamesOfTests(),
        home=home,
        task_of=lambda job: _task(job, home),
        read_spec=lambda _: _SPEC,
        patience=patience,
        retries=RETRIES,
        clock=clock,
        chance=random.Random(0),
        on_told=noted or Noted(),
    )


def new_job(ledger: Ledger, **does: object) -> Job:
    """Queue a job whose worker does what ``does`` says."""
    new = NewJob(tenant=TENANT, name="huggy", spec=json.dumps(does), request_id="")
    return ledger.create(new)


def until(
    ledger: Ledger, job: Job, states: Sequence[JobState], *, timeout_s: float = OVERALL_S
) -> Job:
    """Return the job as soon as it is in one of ``states``."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        found = ledger.get(job.id, tenant=TENANT)
        if found.state in states:
            return found
        threading.Event().wait(0.02)
    raise AssertionError(f"job is still {ledger.get(job.id, tenant=TENANT)}")


def _task(job: Job, home: Path) -> WorkerTask:
    return WorkerTask(
        job_id=job.id,
        tenant=job.tenant,
        attempt=job.attempt,
        spec=job.spec,
        home=str(home),
        cache_address="127.0.0.1:1",
        device="cpu",
        grace_s=PATIENCE.grace_s,
    )


_SPEC: Final = JobSpec(
    name="huggy",
    dataset=Manifest(datasets=(DatasetSpec(id="d", source=FolderSource(path="d")),)),
    run=RunSpec(num_steps=1),
)


def _main(url: str, home: str, owner: str) -> None:
    """Own jobs until SIGTERM; says ``ready`` on its output."""
    supervisor = Supervisor(
        means(open_ledger(url), Path(home)),
        owner=owner,
        max_running=1,
        claim_every_s=0.05,
    )
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    supervisor.start()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    ended.wait()
    supervisor.stop()


if __name__ == "__main__":
    _main(*sys.argv[1:])
