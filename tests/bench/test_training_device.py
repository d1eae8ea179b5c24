"""Steps on a device are measured; operations and shares are right."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from diptych.bench.training_device import (
    DeviceCase,
    DeviceCost,
    StepCost,
    measure_device,
    training_flops,
)


def side(*, step_s: float, device: str = "NVIDIA H100 80GB HBM3") -> StepCost:
    return StepCost(step_s=(step_s,), peak_bytes=0, ceiling_flops=100.0, device=device)


def test_shares_are_of_the_ceiling_and_of_the_makers_peak() -> None:
    case = DeviceCase(method="lora", batch_size=4)
    cost = DeviceCost(case=case, flops=989e10, ours=side(step_s=2.0), theirs=side(step_s=3.0))
    assert (cost.images_per_s, cost.ratio, cost.mfu) == pytest.approx((2.0, 1.5, 0.02))
    assert cost.ceiling_share == pytest.approx(989e10 * 2 / 100.0)
    unknown = DeviceCost(case=case, flops=1.0, ours=side(step_s=1.0, device="CPU"), theirs=None)
    assert (unknown.mfu, unknown.ratio) == (None, None)


def test_both_sides_take_steps_of_every_case() -> None:
    cases = [
        DeviceCase(method="lora", batch_size=1, rank=2),
        DeviceCase(method="lora", batch_size=2, rank=2),
        DeviceCase(method="full", batch_size=2, gradient_checkpointing=True),
    ]
    done: list[DeviceCost] = []
    found = measure_device(
        "nano",
        cases,
        device="cpu",
        num_steps=2,
        progress=done.append,
        make_executor=lambda: ThreadPoolExecutor(1),
    )
    assert [one.case for one in found.costs] == cases
    assert (found.precision, tuple(done)) == ("fp32", found.costs)
    for one in found.costs:
        assert one.theirs is not None
        assert len(one.ours.step_s) == len(one.theirs.step_s) == 2
    lora, _, full = found.costs
    # Backward is as much as forward where weights are frozen, and twice as much where not.
    assert full.flops / lora.flops == pytest.approx(1.5, abs=0.1)


@pytest.mark.parametrize(("method", "expected"), [("lora", 14.1e12), ("full", 3 * 6.75e12)])
def test_sdxl_takes_as_many_operations_as_are_known_of_it(method: Any, expected: float) -> None:
    """Podell et al. 2023: 2.6 billion parameters; a forward at 1024 pixels takes 6.8 TFLOP."""
    assert training_flops("sdxl", method) == pytest.approx(expected, rel=0.01)
