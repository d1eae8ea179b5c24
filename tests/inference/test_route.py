"""A route as the engine reads it."""

import numpy as np
import pytest

from diptych.inference.route import Route
from diptych.inference.trajectory import Expert


@pytest.fixture
def route() -> Route:
    return Route(
        experts=(Expert.BASE, Expert.BASE, Expert.REFINER),
        num_rows=(2, 2, 1),
        steps=(1, 1, 2),
        num_steps=2,
        coefficients=np.zeros((3, 1), np.float32),
        needs_noise=(False,) * 3,
        start=(0.0, 1.0),
    )


def test_counts_the_rows_of_each_expert(route: Route) -> None:
    assert route.work() == {Expert.BASE: 4, Expert.REFINER: 1}


def test_a_step_is_complete_with_its_last_evaluation(route: Route) -> None:
    assert [route.completes_step(position) for position in range(3)] == [False, True, True]
