"""The worker's process: its leash, its lock, and what it says of errors."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

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
from diptych.training.task import AttemptFolder, Outcome, WorkerTask
from diptych.training.worker import LET_GO, failure, held_lock
from support.jobs import a_task, an_attempt

STARTED = "from diptych.training import worker; worker._train = lambda *_: {body}; "
WAITING = STARTED.format(body="__import__('threading').Event().wait(60)")


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
    error: BaseException, reason: str, is_users: bool  # noqa: FBT001
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
    with held_lock(lock, go_on) as first:
        with held_lock(lock, go_on) as second:
            assert (first, second) == (True, False)
    with held_lock(lock, go_on) as third:
        assert third


def started(code: str, folder: AttemptFolder) -> "subprocess.Popen[bytes]":
    program = f"{code} import sys; sys.exit(worker.main([{str(folder.path)!r}]))"
    return subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
    )


def test_a_worker_without_an_owner_ends_at_once(tmp_path: Path) -> None:
    folder = an_attempt(a_task(tmp_path, "127.0.0.1:1"))
    process = started(WAITING, folder)
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(60) == LET_GO
    assert not folder.outcome.exists()


def test_a_worker_whose_cache_is_gone_says_so(tmp_path: Path) -> None:
    folder = an_attempt(a_task(tmp_path, "127.0.0.1:1"))
    code = "import diptych.training.session as s; s._CACHE_READY_S = 0.5; "
    process = started(f"{code}from diptych.training import worker;", folder)
    assert process.wait(100) == 1
    outcome = Outcome.from_json(folder.outcome.read_text())
    assert (outcome.ending, outcome.is_users) == ("failed", False)
    assert outcome.reason == "SERVER_UNREACHABLE"


def test_a_worker_that_waits_for_the_lock_can_be_preempted(tmp_path: Path) -> None:
    folder = an_attempt(a_task(tmp_path, "127.0.0.1:1"))
    with held_lock(folder.lock, lambda: False):
        process = started("from diptych.training import worker;", folder)
        while not folder.heartbeat.exists() and process.poll() is None:
            signal.sigtimedwait([], 0.1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert Outcome.from_json(folder.outcome.read_text()).ending == "preempted"


def test_a_spec_that_is_none_is_the_users_fault(tmp_path: Path) -> None:
    task = a_task(tmp_path, "127.0.0.1:1")
    plain = json.loads(task.to_json())
    folder = an_attempt(WorkerTask(**(plain | {"spec": "{}"})))
    process = started("from diptych.training import worker;", folder)
    assert process.wait(100) == 1
    outcome = Outcome.from_json(folder.outcome.read_text())
    assert (outcome.reason, outcome.is_users) == ("JOB_INVALID", True)
