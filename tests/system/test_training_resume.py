"""A worker that is killed with signal 9 and started again ends where one that was not does."""

import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest

from diptych.training.task import Outcome
from support.jobs import a_task, nano_cache
from support.workers import ended, signalled

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]

OPTIONS: dict[str, Any] = {
    "stage": "both",
    "boundary": 0.65,
    "model": {"source": "nano/base-single"},
    "run": {"num_steps": 12, "num_accumulated": 2, "num_loader_workers": 3},
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with nano_cache(tmp_path_factory.mktemp("cache")) as address:
        yield address


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def whole(cache: str, home: Path) -> Outcome:
    return ended(a_task(home, cache, job_id="whole", **OPTIONS))


@pytest.mark.parametrize("expert", [pytest.param("base", marks=pytest.mark.slow), "refiner"])
def test_a_killed_job_ends_in_the_very_bytes_of_one_that_was_not(
    expert: str, cache: str, home: Path, whole: Outcome
) -> None:
    task = a_task(home, cache, job_id=f"killed-{expert}", **OPTIONS)
    folder, status = signalled(task, Popen.kill, expert=expert)
    assert status == -signal.SIGKILL
    assert not folder.outcome.exists()
    resumed = ended(replace(task, attempt=2))
    assert resumed.ending == "succeeded"
    assert resumed.result == whole.result


def test_a_terminated_job_leaves_a_checkpoint_and_goes_on(
    cache: str, home: Path, whole: Outcome
) -> None:
    task = a_task(home, cache, job_id="preempted", **OPTIONS)
    folder, status = signalled(task, Popen.terminate, expert="base")
    assert status == 0
    assert Outcome.from_json(folder.outcome.read_text()).ending == "preempted"
    assert ended(replace(task, attempt=2)).result == whole.result
