"""A solver name is a promise that something stands behind it."""

import numpy as np
import pytest

from diptych.diffusion import SOLVERS, EdmSchedule, NoiseSchedule, SolverConfig
from diptych.diffusion.solvers.registry import build_lattice, traits_of

STATED_KARRAS = NoiseSchedule(sigma_schedule="karras", timestep_spacing="trailing")


def test_the_solver_names_are_those_of_the_interface() -> None:
    assert " ".join(SOLVERS) == (
        "euler euler_ancestral heun ddim dpmpp_2m dpmpp_2m_sde unipc edm_euler edm_dpmpp_2m lcm tcd"
    )


@pytest.mark.parametrize("name", SOLVERS)
def test_every_solver_makes_its_evaluations(name: str) -> None:
    schedule = NoiseSchedule(edm=EdmSchedule() if traits_of(name).is_edm else None)
    lattice = build_lattice(schedule, SolverConfig(name=name), 5)
    num = len(lattice.timesteps)
    assert len(traits_of(name).evaluations(lattice, range(num))) == num


def test_stated_sigmas_are_used_where_the_solver_has_them() -> None:
    stated = build_lattice(STATED_KARRAS, SolverConfig(name="unipc"), 9)
    plain = build_lattice(NoiseSchedule(timestep_spacing="trailing"), SolverConfig(name="unipc"), 9)
    assert not np.allclose(stated.sigmas, plain.sigmas)


def test_stated_sigmas_are_left_out_where_the_solver_has_none() -> None:
    lattice = build_lattice(STATED_KARRAS, SolverConfig(name="euler_ancestral"), 9)
    plain = build_lattice(
        NoiseSchedule(timestep_spacing="trailing"), SolverConfig(name="euler_ancestral"), 9
    )
    assert np.array_equal(lattice.sigmas, plain.sigmas)


def test_second_order_points_are_met_twice() -> None:
    lattice = build_lattice(NoiseSchedule(), SolverConfig(name="heun"), 3)
    assert lattice.timesteps.tolist() == [667.0, 334.0, 334.0, 1.0, 1.0]


def test_eta_is_the_solvers_own_unless_asked() -> None:
    own = [build_lattice(NoiseSchedule(), SolverConfig(name=n), 3).eta for n in ("ddim", "tcd")]
    assert own == [0.0, 0.3]
