"""A stand-in goes on where its job's checkpoint says and shows every step in its result."""

import json
import threading
from pathlib import Path

from diptych.bench.fault_worker import folder_of, pretend
from diptych.training.reporting import Reporter
from diptych.training.task import AttemptFolder, Outcome, WorkerTask


def attempt(job_dir: Path, number: int) -> AttemptFolder:
    folder = folder_of(job_dir / "attempts" / str(number))
    folder.path.mkdir(parents=True)
    spec = json.dumps({"name": "kind", "run": {"num_steps": 4, "seed": 0}})
    task = WorkerTask(
        job_id="j", tenant="t", attempt=number, spec=spec, home="", cache_address="a:1"
    )
    folder.task.write_text(task.to_json())
    return folder


def done(folder: AttemptFolder, *, is_told_to_end: bool = False) -> Outcome:
    told = threading.Event()
    if is_told_to_end:
        told.set()
    return pretend(folder, Reporter(folder), told, step_s=0.0)


def test_run_that_was_ended_twice_makes_what_one_that_was_not_does(tmp_path: Path) -> None:
    whole = done(attempt(tmp_path / "whole", 1))
    assert done(attempt(tmp_path / "ended", 1), is_told_to_end=True).ending == "preempted"
    second = attempt(tmp_path / "ended", 2)
    second.wish.write_text("pause")
    assert done(second).ending == "stopped"
    assert done(attempt(tmp_path / "ended", 3)) == whole


def test_step_that_is_done_twice_shows(tmp_path: Path) -> None:
    whole = done(attempt(tmp_path / "whole", 1))
    folder = attempt(tmp_path / "doubled", 1)
    done(folder, is_told_to_end=True)
    saved = folder.checkpoints / "state.json"
    saved.write_text(json.dumps(json.loads(saved.read_text()) | {"step": 0}))
    assert done(attempt(tmp_path / "doubled", 2)).result != whole.result
