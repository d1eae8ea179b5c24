"""What a worker computes on."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import torch

from diptych.errors import SettingInvalid
from diptych.training.devices import make_accelerator
from diptych.training.task import WorkerTask
from support.looping import a_job


@pytest.fixture(autouse=True)
def arithmetic() -> Iterator[None]:
    """Leave the process's arithmetic as it was."""
    before = torch.are_deterministic_algorithms_enabled()
    yield
    torch.use_deterministic_algorithms(before)


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
