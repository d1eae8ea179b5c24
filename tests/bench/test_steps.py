"""Steps are measured on any device, and what cannot be measured is named."""

import pytest
import torch

from diptych.bench.steps import (
    Painting,
    StepsConfig,
    StepsReport,
    load_architecture,
    matmul_ceiling,
    measure_steps,
)
from diptych.errors import InvalidRequest


@pytest.fixture(scope="module")
def found() -> StepsReport:
    experts = load_architecture("nano", random_weights=False, device="cpu")
    config = StepsConfig(architecture="nano", batches=(1, 2), timed_steps=1, repeats=1)
    return measure_steps(experts, config)


def test_both_experts_are_measured_at_every_batch_size(found: StepsReport) -> None:
    seen = [(curve.expert, curve.num_images) for curve in found.curves]
    assert seen == [("base", 1), ("base", 2), ("refiner", 1), ("refiner", 2)]


def test_a_step_stays_below_the_ceiling(found: StepsReport) -> None:
    assert all(0 < curve.ceiling_share < 2 for curve in found.curves)


def test_three_paintings_are_timed(found: StepsReport) -> None:
    names = [painting.name for painting in found.paintings]
    assert names == ["20 base steps", "32 + 8 steps", "one image, 30 base steps"]
    assert all(painting.images_per_s > 0 for painting in found.paintings)


def test_diffusers_paints_one_picture_after_another() -> None:
    painting = Painting(name="eight", num_images=8, seconds=4.0, theirs_s=1.5)
    assert painting.ratio == pytest.approx(3.0)


def test_the_ceiling_is_a_rate_that_any_processor_passes() -> None:
    assert matmul_ceiling(torch.device("cpu"), torch.float32, repeats=1) > 1e7


def test_everything_that_is_missing_is_named_at_once() -> None:
    with pytest.raises(InvalidRequest) as caught:
        load_architecture("sdxl", random_weights=False, device="cpu")
    assert [violation.field for violation in caught.value.violations] == [
        "random_weights",
        "device",
    ]


def test_an_unknown_architecture_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InvalidRequest, match="'sd3' is not one of sdxl, nano"):
        load_architecture("sd3", random_weights=True, device="cpu")
