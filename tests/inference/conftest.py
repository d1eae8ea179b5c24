"""What tests of the inference service share."""

import pytest

from diptych.inference.hosted import Hosted, HostedExpert
from diptych.inference.limits import Limits
from diptych.inference.trajectory import Expert


@pytest.fixture
def hosted() -> Hosted:
    """Return a server that hosts a pair of 128 px experts."""
    return Hosted(
        version="0.0.0",
        base=HostedExpert(
            expert=Expert.BASE,
            family="nano",
            model="nano",
            prediction_type="v_prediction",
            guidance_scale=5.0,
        ),
        refiner=HostedExpert(
            expert=Expert.REFINER,
            family="nano",
            model="nano",
            prediction_type="v_prediction",
            guidance_scale=4.0,
        ),
        refinable_families=frozenset({"nano"}),
        solvers=("euler", "ddim", "unipc"),
        spacings=("leading", "linspace", "trailing"),
        sigma_schedules=("karras", "exponential", "beta"),
        limits=Limits(max_side=512, max_pixels=256 * 512, max_images=4, max_steps=100),
        width=128,
        height=128,
        num_steps=30,
        solver="euler",
    )
