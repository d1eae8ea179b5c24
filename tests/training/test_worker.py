"""The worker's process: its leash, its lock, and what it says of errors."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Event
from time import monotonic

import pytest
import torch

from diptych.errors import (
    DatasetInvalid,
    EmbeddingMissing,
    FieldViolation,
    NonFiniteLoss,
    ServerUnreachable,
    SourceUnavailable,
    StoreFull,
)
from diptych.training import session, worker
from diptych.training.task import AttemptFolder, Outcome, WorkerTask
from diptych.training.worker import LET_GO, failure, held_lock
from support.jobs import a_task, an_attempt

WAITING = """
from threading import Event
from time import monotonic
from diptych.training import worker
worker._train = lambda *_: Event().wait(60)
worker.main()
"""
"""A worker that would train for ever."""


@pytest.mark.parametrize(
    ("error", "reason", "is_users"),
    [
        (DatasetInvalid([FieldViolation(field="a", description="b")]), "DATASET_INVALID", True),
        (NonFiniteLoss(step=7, images="sha256:aa"), "NON_FINITE_LOSS", True),
        (EmbeddingMissing("sha256:aa"), "EMBEDDING_MISSING", True),
        (torch.OutOfMemoryError("no"), "OUT_OF_DEVICE_MEMORY", True),
        (StoreFull(location="here", size_bytes=1), "STORE_FULL", False),
        (ServerUnreachable(address="a:1", detail="gone"), "SERVER_UNREACHABLE", False),
        (SourceUnavailable("s3://x", "gone"), "SOURCE_UNAVAILABLE", False),
        (ZeroDivisionError("no"), "WORKER_FAULT", False),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_error_is_the_users_where_it_would_come_again(
    error: BaseException,
    reason: str,
    is_users: bool,
) -> None:
    found = failure(error)
    assert (found.ending, found.reason, found.is_users) == ("failed", reason, is_users)


def test_too_little_memory_comes_with_a_hint() -> None:
    assert "run.batch_size" in failure(torch.OutOfMemoryError("no")).message


def test_a_second_worker_waits_for_the_first_ones_lock(tmp_path: Path) -> None:
    asked = []

    def go_on() -> bool:
        asked.append(1)
        return len(asked) < 3

    lock = tmp_path / "lock"
    with held_lock(lock, go_on) as first, held_lock(lock, go_on) as second:
        assert first is not None
        assert second is None
    with held_lock(lock, go_on) as third:
        assert third is not None


def test_a_worker_without_an_owner_ends_at_once(tmp_path: Path) -> None:
    folder = an_attempt(a_task(tmp_path, "127.0.0.1:1"))
    process = subprocess.Popen(
        [sys.executable, "-c", WAITING, str(folder.path)],
        stdin=subprocess.PIPE,
        env={"PYTHONPATH": ":".join(sys.path), "PATH": ""},
    )
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(60) == LET_GO
    assert not folder.outcome.exists()


UNCOLLECTED = """
import gc
from diptych.training.worker import uncollected
with uncollected():
    assert not gc.isenabled()
assert gc.isenabled()
assert gc.get_freeze_count() > 0
"""


def test_what_a_worker_imports_is_never_searched_for_garbage() -> None:
    environment = {"PYTHONPATH": ":".join(sys.path), "PATH": ""}
    subprocess.run([sys.executable, "-c", UNCOLLECTED], env=environment, check=True)


@pytest.fixture
def arithmetic() -> Iterator[None]:
    """Leave the process's arithmetic as it was."""
    before = torch.are_deterministic_algorithms_enabled()
    yield
    torch.use_deterministic_algorithms(before)


def outcome_of(folder: AttemptFolder, *, is_preempted: bool = False) -> tuple[int, Outcome]:
    """Do an attempt in this process; return the exit status and what is written."""
    preempted = Event()
    if is_preempted:
        preempted.set()
    task = WorkerTask.from_json(folder.task.read_text())
    status = worker._train(task, folder, preempted)
    return status, Outcome.from_json(folder.outcome.read_text())


@pytest.mark.usefixtures("arithmetic")
def test_a_worker_whose_cache_is_gone_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "_CACHE_READY_S", 0.5)
    status, outcome = outcome_of(an_attempt(a_task(tmp_path, "127.0.0.1:1")))
    assert (status, outcome.ending, outcome.is_users) == (1, "failed", False)
    assert outcome.reason == "SERVER_UNREACHABLE"


@pytest.mark.usefixtures("arithmetic")
def test_a_worker_that_waits_for_the_lock_can_be_preempted(tmp_path: Path) -> None:
    folder = an_attempt(a_task(tmp_path, "127.0.0.1:1"))
    with held_lock(folder.lock, lambda: False):
        status, outcome = outcome_of(folder, is_preempted=True)
    assert (status, outcome.ending) == (0, "preempted")


@pytest.mark.usefixtures("arithmetic")
def test_a_spec_that_is_none_is_the_users_fault(tmp_path: Path) -> None:
    folder = an_attempt(replace(a_task(tmp_path, "127.0.0.1:1"), spec="{}"))
    status, outcome = outcome_of(folder)
    assert (status, outcome.reason, outcome.is_users) == (1, "JOB_INVALID", True)


@pytest.mark.usefixtures("arithmetic")
def test_what_another_process_said_of_the_end_stays(tmp_path: Path) -> None:
    folder = an_attempt(replace(a_task(tmp_path, "127.0.0.1:1"), spec="{}"))
    first = Outcome(ending="failed", reason="IMAGE_INVALID", message="of another", is_users=True)
    folder.outcome.write_text(first.to_json())
    assert outcome_of(folder) == (1, first)


@pytest.mark.usefixtures("arithmetic")
@pytest.mark.parametrize(("is_preempted", "ending"), [(True, "preempted"), (False, "stopped")])
def test_a_worker_that_waits_for_its_cache_heeds_what_is_asked(
    tmp_path: Path, is_preempted: bool, ending: str
) -> None:
    folder = an_attempt(a_task(tmp_path, "127.0.0.1:1"))
    if not is_preempted:
        folder.wish.write_text("cancel")
    began = monotonic()
    status, outcome = outcome_of(folder, is_preempted=is_preempted)
    assert (status, outcome.ending) == (0, ending)
    assert monotonic() - began < 20.0  # of the minute that it would have waited
