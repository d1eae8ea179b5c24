"""Settings name devices and dtypes; what this machine has not is refused."""

import pytest
import torch

from diptych.errors import SettingInvalid
from diptych.models.placement import choose_device, choose_dtype


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "cpu:1", "mps", ""])
def test_device_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(SettingInvalid, match=r"cache.device: this machine has no device"):
        choose_device(name, field="cache.device")


def test_cpu_computes_in_float32_unless_told() -> None:
    cpu = torch.device("cpu")
    assert (choose_dtype("auto", cpu), choose_dtype("bfloat16", cpu)) == (
        torch.float32,
        torch.bfloat16,
    )
