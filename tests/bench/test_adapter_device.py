"""A device's costs of adapters are measured without a server."""

from pathlib import Path

import pytest

from diptych.bench.adapter_device import AdapterDevice, DeviceConfig, measure_device
from diptych.bench.steps import load_architecture

CONFIG = DeviceConfig(architecture="nano", rank=2, num_images=1, timed_steps=1, repeats=1)


def test_everything_is_measured(tmp_path: Path) -> None:
    experts = load_architecture("nano", random_weights=False, device="cpu")
    found = measure_device(experts, CONFIG, folder=tmp_path)
    assert min(found.plain_step_s, found.mixed_step_s, found.attach_s, found.cold_s) > 0
    assert (found.device, found.dtype) == ("cpu", "float32")


@pytest.mark.parametrize(("switched_s", "switch_s"), [(0.75, 0.25), (0.4, 0.0)])
def test_a_switch_costs_what_the_step_takes_longer(switched_s: float, switch_s: float) -> None:
    found = AdapterDevice(
        architecture="nano",
        device="cpu",
        dtype="float32",
        config=CONFIG,
        plain_step_s=0.4,
        mixed_step_s=0.5,
        stayed_step_s=0.5,
        switched_step_s=switched_s,
        attach_s=0.001,
        cold_s=0.1,
        num_recorded=0,
    )
    assert found.switch_s == switch_s
    assert found.mixed_ratio == pytest.approx(1.25)
