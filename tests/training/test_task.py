"""What passes between owner and worker goes through files unchanged."""

from pathlib import Path

from diptych.training.task import AttemptFolder, Outcome, WorkerTask

TASK = WorkerTask(
    job_id="j", tenant="t", attempt=2, spec="{}", home="/home", cache_address="host:1"
)


def test_a_task_is_read_as_it_was_written() -> None:
    assert WorkerTask.from_json(TASK.to_json()) == TASK


def test_a_mate_has_files_of_its_own_and_shares_what_is_told_and_wished(tmp_path: Path) -> None:
    worker = AttemptFolder(job_dir=tmp_path, attempt=1)
    mate = worker.of_mate("refiner")
    own = {"task-refiner.json", "heartbeat-refiner", "outcome-refiner.json"}
    assert {mate.task.name, mate.heartbeat.name, mate.outcome.name} == own
    shared = ("events", "wish", "log", "lock", "checkpoints", "path")
    assert all(getattr(mate, name) == getattr(worker, name) for name in shared)


def test_an_outcome_is_read_as_it_was_written() -> None:
    outcome = Outcome(ending="failed", reason="R", message="m", result={"name": "a"})
    assert Outcome.from_json(outcome.to_json()) == outcome


def test_attempts_have_folders_of_their_own_and_share_checkpoints(tmp_path: Path) -> None:
    one, other = (AttemptFolder(job_dir=tmp_path, attempt=number) for number in (1, 2))
    own = ("task", "events", "heartbeat", "wish", "outcome", "log")
    assert all(getattr(one, name).parent == one.path for name in own)
    assert one.path != other.path
    assert (one.checkpoints, one.lock) == (other.checkpoints, other.lock)
