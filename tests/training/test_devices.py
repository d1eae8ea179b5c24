"""What a worker computes on."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import torch

from diptych.errors import JobInvalid, SettingInvalid
from diptych.training import devices
from diptych.training.devices import make_accelerator
from diptych.training.spec import JobSpec
from diptych.training.task import WorkerTask
from support.looping import a_job


@pytest.fixture(autouse=True)
def arithmetic() -> Iterator[None]:
    """Leave the process's arithmetic as it was."""
    before, num_threads = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    yield
    torch.use_deterministic_algorithms(before)
    torch.set_num_threads(num_threads)


def a_task(home: Path, device: str) -> WorkerTask:
    return WorkerTask(
        job_id="7",
        tenant="lab",
        attempt=1,
        spec="",
        home=str(home),
        cache_address="here:1",
        device=device,
    )


def test_a_cpu_computes_in_a_fixed_order(tmp_path: Path) -> None:
    accelerator = make_accelerator(a_task(tmp_path, "cpu"), a_job(), timeout=timedelta(minutes=1))
    assert accelerator.device.type == "cpu"
    assert torch.are_deterministic_algorithms_enabled()


def test_a_device_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingInvalid):
        make_accelerator(a_task(tmp_path, "cuda:77"), a_job(), timeout=timedelta(minutes=1))


def two_at_once() -> JobSpec:
    return a_job(run={"side_by_side": True}, stage="both", boundary=0.5)


@pytest.mark.parametrize(("num_threads", "own"), [(4, 2), (3, 1), (1, 1)])
def test_experts_side_by_side_share_a_cpus_threads(
    num_threads: int, own: int, tmp_path: Path
) -> None:
    torch.set_num_threads(num_threads)
    make_accelerator(a_task(tmp_path, "cpu"), two_at_once(), timeout=timedelta(minutes=1))
    assert torch.get_num_threads() == own


@pytest.mark.parametrize(
    ("device", "num_present", "problem"),
    [("cuda", 1, "this machine has 1"), ("cuda:1", 2, "trains on cuda:1 alone")],
)
def test_experts_side_by_side_take_two_devices(
    device: str, num_present: int, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: num_present)
    with pytest.raises(JobInvalid, match=f"run.side_by_side: takes two devices.*{problem}"):
        make_accelerator(a_task(tmp_path, device), two_at_once(), timeout=timedelta(minutes=1))


@pytest.mark.parametrize(("is_mate", "number"), [(False, 0), (True, 1)])
def test_a_mate_has_the_second_device(
    is_mate: bool, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    own = devices._own_device(torch.device("cuda"), is_mate=is_mate)
    assert own == torch.device("cuda", number)
