"""Grids of evaluations are those of diffusers' schedulers."""

from typing import Any

import diffusers
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.diffusion import EdmSchedule, NoiseSchedule
from diptych.diffusion.lattice import (
    distilled_lattice,
    edm_lattice,
    endpoint_lattice,
    interval_lattice,
    table_lattice,
)

SCHEDULE = NoiseSchedule()
SPACINGS = ("leading", "linspace", "trailing")


@given(spacing=st.sampled_from(SPACINGS), num=st.integers(1, 500))
def test_asking_for_n_steps_gives_n_steps(spacing: str, num: int) -> None:
    lattice = table_lattice(SCHEDULE, spacing=spacing, num_steps=num)
    assert len(lattice.timesteps) == num
    assert lattice.timesteps.min() >= 0


def test_no_step_is_added_where_diffusers_rounds_to_one_too_many() -> None:
    theirs = diffusers.DDIMScheduler(timestep_spacing="trailing")
    theirs.set_timesteps(61)
    ours = table_lattice(SCHEDULE, spacing="trailing", num_steps=61)
    assert theirs.timesteps[-1] == -1
    assert ours.timesteps.tolist() == theirs.timesteps[:-1].tolist()


@given(spacing=st.sampled_from(SPACINGS), num=st.integers(1, 300))
def test_noise_falls_along_every_grid(spacing: str, num: int) -> None:
    options: dict[str, Any] = {"spacing": spacing, "sigma_schedule": None, "num_steps": num}
    endpoint = endpoint_lattice(SCHEDULE, ends_clean=True, **options)
    interval = interval_lattice(SCHEDULE, rounds_karras=True, **options)
    assert (np.diff(endpoint.sigmas) < 0).all()
    assert (np.diff(interval.sigmas) < 0).all()


@pytest.mark.parametrize("num", [1, 2, 4, 8, 49, 50])
def test_distilled_grid_is_a_subset_of_the_teachers(num: int) -> None:
    theirs = diffusers.LCMScheduler()
    theirs.set_timesteps(num)
    ours = distilled_lattice(SCHEDULE, num_steps=num)
    assert ours.timesteps.tolist() == theirs.timesteps.tolist()


@pytest.mark.parametrize("name", ["karras", "exponential"])
def test_edm_grid_is_diffusers(name: str) -> None:
    theirs = diffusers.EDMEulerScheduler(sigma_schedule=name)
    theirs.set_timesteps(18)
    schedule = NoiseSchedule(edm=EdmSchedule())
    ours = edm_lattice(schedule, sigma_schedule=name, num_steps=18)
    assert np.allclose(ours.sigmas, theirs.sigmas.numpy(), rtol=1e-5)
    assert np.allclose(ours.timesteps, theirs.timesteps.numpy(), atol=1e-5)


def test_a_schedule_may_end_above_zero() -> None:
    schedule = NoiseSchedule(final_sigmas_type="sigma_min")
    lattice = interval_lattice(
        schedule, spacing="trailing", sigma_schedule=None, num_steps=9, rounds_karras=True
    )
    assert np.isclose(lattice.sigmas[-1], schedule.sigmas[0])
