"""From a request to its route: the plan of each expert's evaluations, and guidance over them."""

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from diptych.diffusion import NoiseSchedule, Plan, SolverConfig, make_plan
from diptych.errors import ExpertMissing, FieldViolation, InvalidRequest
from diptych.inference.route import Route
from diptych.inference.trajectory import Expert, ImageInput, ImageRequest, StageSettings

__all__ = [
    "ACTIVE",
    "C_IN",
    "DENOISED",
    "MATRIX",
    "NUM_COEFFICIENTS",
    "RESCALE",
    "SCALE",
    "TIMESTEP",
    "make_route",
    "stages_of",
]

MATRIX: Final = slice(0, 24)
"""Columns of ``Route.coefficients``: the step [4, 6], the estimate of x0 [6], then scalars."""
DENOISED: Final = slice(24, 30)
C_IN: Final = 30
TIMESTEP: Final = 31
SCALE: Final = 32
RESCALE: Final = 33
ACTIVE: Final = 34
NUM_COEFFICIENTS: Final = 35


def stages_of(request: ImageRequest) -> dict[Expert, StageSettings]:
    """Return the settings of the experts that ``request`` uses, base first."""
    stages = {Expert.BASE: request.base, Expert.REFINER: request.refiner}
    return {expert: stage for expert, stage in stages.items() if stage is not None}


def make_route(request: ImageRequest, schedules: Mapping[Expert, NoiseSchedule]) -> Route:
    """Return the route of every image of ``request``.

    Args:
        request: What is asked for.
        schedules: The noise schedule of each expert that is loaded; experts agree on it.

    Raises:
        ExpertMissing: The request uses an expert without a schedule.
        InvalidRequest: Its experts, solver, steps and boundary do not make a plan.
    """
    stages = stages_of(request)
    if not stages:
        violation = FieldViolation(field="base", description="neither base nor refiner is set")
        raise InvalidRequest([violation])
    for expert in stages:
        if expert not in schedules:
            raise ExpertMissing(expert)
    source = request.source
    solver = SolverConfig(
        name=request.solver,
        spacing=request.spacing,
        sigma_schedule=request.sigma_schedule,
        eta=request.eta,
        history=request.history.value,
    )
    plan = make_plan(
        schedules[next(iter(stages))],
        solver,
        request.num_steps,
        experts=tuple(expert.value for expert in stages),
        boundary=request.boundary,
        strength=source.strength if isinstance(source, ImageInput) else None,
    )
    order = (Expert.BASE, Expert.REFINER)
    experts = tuple(order[index] for index in plan.expert)
    coefficients = _coefficients(plan, [stages[expert] for expert in experts])
    return Route(
        experts=experts,
        num_rows=tuple(2 if active else 1 for active in coefficients[:, ACTIVE]),
        steps=tuple(plan.step.tolist()),
        num_steps=plan.num_steps,
        coefficients=coefficients,
        needs_noise=tuple(plan.needs_noise.tolist()),
        start=(plan.init_signal, plan.init_noise_sigma),
    )


def _coefficients(plan: Plan, stages: list[StageSettings]) -> NDArray[np.float32]:
    """Return a line of numbers per evaluation, [E, NUM_COEFFICIENTS]."""
    table = np.zeros((plan.num_evaluations, NUM_COEFFICIENTS), np.float32)
    table[:, MATRIX] = plan.matrix.reshape(plan.num_evaluations, MATRIX.stop)
    table[:, DENOISED] = plan.denoised
    table[:, C_IN] = plan.c_in
    table[:, TIMESTEP] = plan.timestep
    for index, stage in enumerate(stages):
        first, last = stage.guidance_interval
        inside = first <= plan.fraction[index] <= last
        table[index, SCALE] = stage.guidance_scale
        table[index, RESCALE] = stage.guidance_rescale
        table[index, ACTIVE] = stage.guidance_scale > 1.0 and inside
    return table
