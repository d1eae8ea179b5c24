"""Pure, ragged, exact diffusion: schedules, plans and the arithmetic of one step.

What is exported here needs numpy only, so that a client without torch can name the solvers. The
three modules that touch tensors are imported by name: ``diffusion.ragged`` applies a step to a
mixed batch, ``diffusion.guidance`` combines predictions, ``diffusion.noise`` draws.
"""

from diptych.diffusion.plan import Plan, make_plan
from diptych.diffusion.schedule import EdmSchedule, NoiseSchedule
from diptych.diffusion.solvers.registry import SOLVERS, SolverConfig
from diptych.diffusion.split import (
    base_timesteps,
    boundary_from_refiner_strength,
    boundary_timestep,
    refiner_strength_from_boundary,
    refiner_timesteps,
)

__all__ = [
    "SOLVERS",
    "EdmSchedule",
    "NoiseSchedule",
    "Plan",
    "SolverConfig",
    "base_timesteps",
    "boundary_from_refiner_strength",
    "boundary_timestep",
    "make_plan",
    "refiner_strength_from_boundary",
    "refiner_timesteps",
]
