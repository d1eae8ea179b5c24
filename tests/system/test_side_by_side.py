"""Two experts that are trained at once end as they do in turn, whatever becomes of a process."""

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from safetensors.torch import load_file, save_file

from diptych.nano.pair import pair_path
from diptych.storage.local import LocalBlobs
from diptych.training.attempt_files import is_worker_gone
from diptych.training.task import AttemptFolder, Outcome, WorkerTask
from support.jobs import a_task, events_of, nano_cache
from support.workers import ended, signalled

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]

RUN: dict[str, Any] = {"num_steps": 9}
OPTIONS: dict[str, Any] = {
    "stage": "both",
    "boundary": 0.65,
    "model": {"source": "nano/base-single"},
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with nano_cache(tmp_path_factory.mktemp("cache")) as address:
        yield address


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def in_turn(cache: str, home: Path) -> Outcome:
    """Return the outcome of the same job with one expert after the other."""
    return ended(a_task(home, cache, job_id="in-turn", run=RUN, **OPTIONS))


def beside(home: Path, cache: str, job_id: str, **changes: Any) -> WorkerTask:
    """Return the task of a job that trains both experts at once."""
    run = RUN | {"side_by_side": True} | changes.pop("run", {})
    return a_task(home, cache, job_id=job_id, run=run, **(OPTIONS | changes))


def mate_of(process: "subprocess.Popen[bytes]") -> psutil.Process:
    (mate,) = psutil.Process(process.pid).children()
    return mate


def kill_mate(process: "subprocess.Popen[bytes]") -> None:
    mate_of(process).kill()


def outcome_in(folder: AttemptFolder) -> Outcome:
    return Outcome.from_json(folder.outcome.read_text())


def experts_with_checkpoints(folder: AttemptFolder) -> set[str]:
    keys = [one.key for one in LocalBlobs(folder.checkpoints).listing("")]
    return {key.split("/")[0] for key in keys if key.endswith("manifest.json")}


def test_a_job_whose_second_process_was_killed_ends_like_one_in_turn(
    cache: str, home: Path, in_turn: Outcome
) -> None:
    task = beside(home, cache, "mate-killed")
    folder, status = signalled(task, kill_mate, expert="refiner")
    lost = outcome_in(folder)
    assert (status, lost.reason, lost.is_users) == (1, "WORKER_LOST", False)
    assert experts_with_checkpoints(folder) == {"0-base", "1-refiner"}
    assert ended(replace(task, attempt=2)).result == in_turn.result
    told = events_of(replace(folder, attempt=2), "prepared")
    assert {one["expert"] for one in told} <= {"base", "refiner"}
    assert {one["num_embeddings"] for one in told} == {6 + 6 + 1}


@pytest.mark.slow
def test_both_are_trained_at_once_and_end_like_two_in_turn(
    cache: str, home: Path, in_turn: Outcome
) -> None:
    task = beside(home, cache, "undisturbed")
    outcome = ended(task)
    assert outcome.result == in_turn.result
    folder = AttemptFolder(job_dir=home / "jobs" / task.job_id, attempt=1)
    steps = [(one["expert"], one["step"]) for one in events_of(folder, "checkpoint")]
    for expert in ("base", "refiner"):
        assert [step for name, step in steps if name == expert] == [3, 6, 9]
    assert not folder.of_mate("refiner").heartbeat.exists()


@pytest.mark.slow
def test_a_job_whose_first_process_was_killed_ends_like_one_in_turn(
    cache: str, home: Path, in_turn: Outcome
) -> None:
    task = beside(home, cache, "worker-killed")
    mates = []

    def kill(process: "subprocess.Popen[bytes]") -> None:
        mates.append(mate_of(process))
        process.kill()

    folder, _ = signalled(task, kill, expert="base")
    psutil.wait_procs(mates, timeout=60)
    assert is_worker_gone(folder)
    assert not folder.outcome.exists()
    assert ended(replace(task, attempt=2)).result == in_turn.result


@pytest.mark.slow
def test_a_terminated_worker_leaves_checkpoints_of_both(
    cache: str, home: Path, in_turn: Outcome
) -> None:
    task = beside(home, cache, "preempted")
    folder, status = signalled(task, subprocess.Popen.terminate, expert="refiner")
    assert (status, outcome_in(folder).ending) == (0, "preempted")
    assert experts_with_checkpoints(folder) == {"0-base", "1-refiner"}
    assert ended(replace(task, attempt=2)).result == in_turn.result


@pytest.mark.slow
def test_a_wish_stops_both_with_checkpoints(cache: str, home: Path, in_turn: Outcome) -> None:
    task = beside(home, cache, "paused")
    wish = AttemptFolder(job_dir=home / "jobs" / task.job_id, attempt=1).wish

    def pause(_: "subprocess.Popen[bytes]") -> None:
        wish.write_text("pause")

    folder, status = signalled(task, pause, expert="base")
    assert (status, outcome_in(folder).ending) == (0, "stopped")
    assert ended(replace(task, attempt=2)).result == in_turn.result


@pytest.mark.slow
def test_an_expert_whose_loss_is_no_number_stops_the_other_and_nothing_is_exported(
    cache: str, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(pair_path() / "refiner", broken)
    weights = broken / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    weights.unlink()
    save_file({name: one.float() * 1e30 for name, one in tensors.items()}, weights)
    model = {"source": str(pair_path() / "base"), "refiner": str(broken)}
    task = beside(tmp_path, cache, "no-number", model=model, run={"num_steps": 500})
    outcome = ended(task, status=1)
    assert (outcome.reason, outcome.is_users) == ("NON_FINITE_LOSS", True)
    folder = AttemptFolder(job_dir=tmp_path / "jobs" / task.job_id, attempt=1)
    assert experts_with_checkpoints(folder) == {"0-base"}
    assert 0 < events_of(folder, "checkpoint")[-1]["step"] < 500  # type: ignore[operator]
    assert list(LocalBlobs(tmp_path / "adapters").listing("")) == []
