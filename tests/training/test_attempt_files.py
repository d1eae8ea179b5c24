"""What owner and worker leave each other in a folder is whole, and tells who lives."""

import fcntl
import os
from pathlib import Path

import pytest

from diptych.errors import StoreFull
from diptych.training.attempt_files import (
    Heartbeat,
    earlier_attempts,
    is_worker_gone,
    job_dir,
    read_outcome,
    write_task,
    write_wish,
)
from diptych.training.task import AttemptFolder, Outcome, WorkerTask
from support.full_disk import files_no_larger_than

TASK = WorkerTask(
    job_id="j", tenant="t", attempt=3, spec="{}", home="/h", cache_address="127.0.0.1:1"
)


@pytest.fixture
def folder(tmp_path: Path) -> AttemptFolder:
    return AttemptFolder(job_dir=job_dir(tmp_path, tenant="t", job_id="j"), attempt=3)


def test_task_is_read_as_it_was_written(folder: AttemptFolder) -> None:
    write_task(folder, TASK)
    assert WorkerTask.from_json(folder.task.read_text()) == TASK


def test_later_wish_replaces_the_earlier(folder: AttemptFolder) -> None:
    write_task(folder, TASK)
    write_wish(folder, "pause")
    write_wish(folder, "cancel")
    assert folder.wish.read_text() == "cancel"


def test_full_disk_is_told(folder: AttemptFolder) -> None:
    with files_no_larger_than(10), pytest.raises(StoreFull):
        write_task(folder, TASK)


def test_outcome_that_is_not_there_is_none(folder: AttemptFolder) -> None:
    assert read_outcome(folder) is None


def test_outcome_is_read(folder: AttemptFolder) -> None:
    write_task(folder, TASK)
    outcome = Outcome(ending="succeeded", result={"name": "n"})
    folder.outcome.write_text(outcome.to_json())
    assert read_outcome(folder) == outcome


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"ending": "failed", "other": 1}', "\xff"])
def test_outcome_that_is_garbled_is_none(folder: AttemptFolder, text: str) -> None:
    write_task(folder, TASK)
    folder.outcome.write_text(text)
    assert read_outcome(folder) is None


def test_earlier_attempts_come_in_order(folder: AttemptFolder) -> None:
    for attempt in (10, 9, 2, 1):
        write_task(AttemptFolder(job_dir=folder.job_dir, attempt=attempt), TASK)
    (folder.path.parent / "notes").mkdir()
    tenth = AttemptFolder(job_dir=folder.job_dir, attempt=10)
    assert [one.attempt for one in earlier_attempts(tenth)] == [1, 2, 9]


def test_job_without_files_has_no_earlier_attempts(folder: AttemptFolder) -> None:
    assert list(earlier_attempts(folder)) == []


def test_held_lock_tells_that_a_worker_lives(folder: AttemptFolder) -> None:
    assert is_worker_gone(folder)
    folder.job_dir.mkdir(parents=True)
    with folder.lock.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert not is_worker_gone(folder)
    assert is_worker_gone(folder)


def test_silence_lasts_until_the_file_changes(folder: AttemptFolder) -> None:
    heartbeat = Heartbeat(folder, now=10.0)
    assert heartbeat.silent_s(12.0) == 2.0
    write_task(folder, TASK)
    folder.heartbeat.touch()
    assert heartbeat.silent_s(13.0) == 0.0
    assert heartbeat.silent_s(20.0) == 7.0


def test_clock_of_the_file_does_not_matter(folder: AttemptFolder) -> None:
    write_task(folder, TASK)
    folder.heartbeat.touch()
    heartbeat = Heartbeat(folder, now=0.0)
    heartbeat.silent_s(1.0)
    os.utime(folder.heartbeat, (1.0, 1.0))
    assert heartbeat.silent_s(5.0) == 0.0


def test_a_silent_mate_is_noticed_while_its_worker_beats(folder: AttemptFolder) -> None:
    write_task(folder, TASK)
    mate = folder.of_mate("refiner")
    heartbeat = Heartbeat(folder, now=0.0)
    folder.heartbeat.touch()
    mate.heartbeat.touch()
    assert heartbeat.silent_s(2.0) == 0.0
    os.utime(folder.heartbeat, (1.0, 1.0))
    assert heartbeat.silent_s(4.0) == 2.0


def test_a_mate_that_has_ended_is_not_silent(folder: AttemptFolder) -> None:
    write_task(folder, TASK)
    mate = folder.of_mate("refiner")
    folder.heartbeat.touch()
    mate.heartbeat.touch()
    heartbeat = Heartbeat(folder, now=0.0)
    heartbeat.silent_s(1.0)
    mate.heartbeat.unlink()
    os.utime(folder.heartbeat, (1.0, 1.0))
    assert heartbeat.silent_s(9.0) == 0.0
