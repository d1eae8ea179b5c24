"""A worker's mate: its task, its leash, its lock, and how its end is understood."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

import psutil
import pytest

from diptych.training.attempt_files import is_worker_gone
from diptych.training.mate import Mate
from diptych.training.task import AttemptFolder, Outcome, WorkerTask

if TYPE_CHECKING:
    from subprocess import Popen

TASK = WorkerTask(
    job_id="j",
    tenant="t",
    attempt=1,
    spec="{}",
    home="/h",
    cache_address="127.0.0.1:1",
    expert="refiner",
)
SAYS = """
import signal, sys
from pathlib import Path
folder, expert = Path(sys.argv[1]), sys.argv[2]
def say(ending):
    (folder / f"outcome-{expert}.json").write_text('{"ending": "%s"}' % ending)
"""
SLEEPS = """
import sys, threading
open(sys.argv[1] + "/ready", "w").close()
threading.Event().wait(60)
"""
KILLED = "import os, threading; threading.Event().wait(0.5); os.kill(os.getpid(), 9)"
HEEDS = (
    f"{SAYS}\nsignal.signal(signal.SIGTERM, lambda *_: (say('preempted'), sys.exit(0)))\n{SLEEPS}"
)


@pytest.fixture
def folder(tmp_path: Path) -> AttemptFolder:
    found = AttemptFolder(job_dir=tmp_path, attempt=1)
    found.path.mkdir(parents=True)
    return found


@pytest.fixture
def lock(folder: AttemptFolder) -> Iterator[int]:
    """Return a descriptor of the job's lock, which is held."""
    descriptor = os.open(folder.lock, os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    yield descriptor
    with suppress(OSError):  # a test closed it
        os.close(descriptor)


def a_mate(
    folder: AttemptFolder, lock: int, code: str, *, is_preempted: bool = False
) -> tuple[Mate, list[int]]:
    """Return a mate that runs ``code``, and where beats are noted."""
    beats: list[int] = []
    mate = Mate(
        folder,
        lock=lock,
        beat=lambda: beats.append(1),
        is_preempted=lambda: is_preempted,
        worker=("-c", code),
    )
    return mate, beats


def process_of(mate: Mate) -> "Popen[bytes]":
    assert mate._process is not None
    return mate._process


def wait_for(path: Path) -> None:
    while not path.exists():
        Event().wait(0.02)


def test_a_mate_has_a_task_and_an_outcome_of_its_own(folder: AttemptFolder, lock: int) -> None:
    mate, _ = a_mate(folder, lock, f"{SAYS}\nsay('succeeded')")
    with mate.start(TASK):
        assert mate.wait() == Outcome(ending="succeeded")
    own = folder.of_mate("refiner")
    assert WorkerTask.from_json(own.task.read_text()) == TASK
    assert own.outcome.exists()
    assert not folder.outcome.exists()


def test_a_mate_that_was_not_started_has_not_ended(folder: AttemptFolder, lock: int) -> None:
    assert a_mate(folder, lock, SLEEPS)[0].ended() is None


def test_a_mate_that_was_killed_is_lost_and_that_is_nobodys_fault(
    folder: AttemptFolder, lock: int
) -> None:
    folder.log.write_text("no more memory\n")
    mate, beats = a_mate(folder, lock, KILLED)
    with mate.start(TASK):
        found = mate.wait()
    assert (found.ending, found.reason, found.is_users) == ("failed", "WORKER_LOST", False)
    assert "the refiner ended with signal 9" in found.message
    assert found.message.endswith("no more memory")
    assert beats


def test_a_mate_that_was_told_to_end_before_it_could_heed_it_is_preempted(
    folder: AttemptFolder, lock: int
) -> None:
    mate, _ = a_mate(folder, lock, SLEEPS)
    with mate.start(TASK):
        wait_for(folder.path / "ready")
        mate.end()
        assert mate.wait() == Outcome(ending="preempted")


def test_leaving_the_block_has_the_mate_end_as_it_can(folder: AttemptFolder, lock: int) -> None:
    mate, _ = a_mate(folder, lock, HEEDS)
    with mate.start(TASK):
        wait_for(folder.path / "ready")
    assert mate.ended() == Outcome(ending="preempted")


def test_a_preempted_worker_that_waits_has_its_mate_end(folder: AttemptFolder, lock: int) -> None:
    mate, _ = a_mate(folder, lock, SLEEPS, is_preempted=True)
    with mate.start(TASK):
        assert mate.wait() == Outcome(ending="preempted")


def test_a_mate_is_on_a_leash(folder: AttemptFolder, lock: int) -> None:
    mate, _ = a_mate(folder, lock, f"{SAYS}\nsys.stdin.read(); say('stopped')")
    with mate.start(TASK):
        leash = process_of(mate).stdin
        assert leash is not None
        leash.close()
        assert mate.wait() == Outcome(ending="stopped")


def test_the_workers_lock_is_held_while_the_mate_lives(folder: AttemptFolder, lock: int) -> None:
    mate, _ = a_mate(folder, lock, SLEEPS)
    with mate.start(TASK):
        os.close(lock)
        assert not is_worker_gone(folder)
    assert is_worker_gone(folder)


def test_a_mate_stands_in_the_workers_process_group(folder: AttemptFolder, lock: int) -> None:
    mate, _ = a_mate(folder, lock, SLEEPS)
    with mate.start(TASK):
        assert os.getpgid(process_of(mate).pid) == os.getpgid(0)
        assert psutil.Process(process_of(mate).pid).ppid() == os.getpid()
