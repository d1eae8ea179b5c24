"""What passes between owner and worker goes through files unchanged."""

from pathlib import Path

from diptych.training.task import AttemptFolder, Outcome, WorkerTask

TASK = WorkerTask(
    job_id="j", tenant="t", attempt=2, spec="{}", home="/home", cache_address="host:1"
)


def test_a_task_is_read_as_it_was_written() -> None:
    assert WorkerTask.from_json(TASK.to_json()) == TASK


def test_an_outcome_is_read_as_it_was_written() -> None:
    outcome = Outcome(ending="failed", reason="R", message="m", result={"name": "a"})
    assert Outcome.from_json(outcome.to_json()) == outcome


def test_attempts_have_folders_of_their_own_and_share_checkpoints(tmp_path: Path) -> None:
    one, other = (AttemptFolder(job_dir=tmp_path, attempt=number) for number in (1, 2))
    own = ("task", "events", "heartbeat", "wish", "outcome", "log")
    assert all(getattr(one, name).parent == one.path for name in own)
    assert one.path != other.path
    assert (one.checkpoints, one.lock) == (other.checkpoints, other.lock)
