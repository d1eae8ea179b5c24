"""What a plan is asked for, and everything about it that cannot be done."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from diptych.diffusion.schedule import SPACINGS, NoiseSchedule
from diptych.diffusion.solvers.registry import SOLVERS, SolverConfig, SolverTraits, traits_of
from diptych.errors import FieldViolation, InvalidRequest

__all__ = ["Asked", "refuse", "violations_of"]

Violation = tuple[str, str]
"""(field, description)"""

EXPERTS = (("base", "refiner"), ("base",), ("refiner",))
HISTORIES = ("restart", "carry")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The arguments of ``make_plan``, hashable."""

    schedule: NoiseSchedule
    solver: SolverConfig
    num_steps: int
    experts: tuple[str, ...]
    boundary: float | None
    strength: float | None


def refuse(violations: Sequence[Violation]) -> None:
    """Raise ``InvalidRequest`` if there is any violation."""
    if violations:
        raise InvalidRequest([FieldViolation(field=f, description=d) for f, d in violations])


def violations_of(asked: Asked) -> list[Violation]:
    """Return all that is wrong with what is asked, before any timestep is computed."""
    found = [*_range_violations(asked), *_stage_violations(asked)]
    if asked.solver.name not in SOLVERS:
        found.append(("solver", f"{asked.solver.name!r} is none of {', '.join(SOLVERS)}"))
        return found
    traits = traits_of(asked.solver.name)
    return [*found, *_solver_violations(asked, traits), *_model_violations(asked, traits)]


def _range_violations(asked: Asked) -> Iterator[Violation]:
    solver = asked.solver
    if asked.num_steps < 1:
        yield "num_steps", f"{asked.num_steps} is less than 1"
    if asked.boundary is not None and not 0.0 < asked.boundary < 1.0:
        yield "boundary", f"{asked.boundary} is not between 0 and 1"
    if asked.strength is not None and not 0.0 < asked.strength <= 1.0:
        yield "image.strength", f"{asked.strength} is not above 0 and at most 1"
    if solver.spacing is not None and solver.spacing not in SPACINGS:
        yield "spacing", f"{solver.spacing!r} is none of {', '.join(SPACINGS)}"
    if solver.history not in HISTORIES:
        yield "history", f"{solver.history!r} is none of {', '.join(HISTORIES)}"
    eta = solver.eta
    if eta is not None and not (math.isfinite(eta) and 0.0 <= eta <= 1.0):
        yield "eta", f"{eta} is not between 0 and 1"


def _stage_violations(asked: Asked) -> Iterator[Violation]:
    """Experts, boundary, strength and history must tell one story."""
    if asked.experts not in EXPERTS:
        yield "experts", f"{asked.experts!r} is none of {EXPERTS!r}"
    both = asked.experts == ("base", "refiner")
    if both and asked.boundary is None:
        yield "boundary", "two experts need a boundary between them"
    if asked.experts == ("refiner",) and asked.boundary is None and asked.strength is None:
        yield "boundary", "the refiner alone needs a boundary or a strength to start from"
    if asked.strength is not None and asked.boundary is not None and asked.experts != ("base",):
        yield "image.strength", "cannot be combined with a boundary that the refiner starts at"
    if asked.strength is not None and both and asked.boundary is None:
        yield "image.strength", "starts one expert, not two"
    if asked.solver.history == "carry" and not both:
        yield "history", "carry needs two experts"


def _solver_violations(asked: Asked, traits: SolverTraits) -> Iterator[Violation]:
    """Return settings that this solver does not have: an ignored setting is an error."""
    solver, schedule = asked.solver, asked.schedule
    if solver.spacing is not None and not traits.is_spaced:
        yield "spacing", f"{solver.name} has a grid of its own"
    if solver.eta is not None and traits.default_eta is None:
        yield "eta", f"{solver.name} has no eta"
    allowed = traits.sigma_schedules
    if solver.sigma_schedule is not None and solver.sigma_schedule not in allowed:
        names = ", ".join(allowed) if allowed else "no sigma schedule"
        yield "sigma_schedule", f"{solver.sigma_schedule!r}: {solver.name} takes {names}"
    limit = schedule.num_train_timesteps
    if traits.grid == "distilled":
        limit = min(limit, schedule.original_inference_steps)
    if asked.num_steps > limit:
        yield "num_steps", f"{asked.num_steps} exceed {solver.name}'s limit of {limit}"


def _model_violations(asked: Asked, traits: SolverTraits) -> Iterator[Violation]:
    """Return ways in which the solver does not fit the checkpoint."""
    name, schedule = asked.solver.name, asked.schedule
    if traits.is_edm and schedule.edm is None:
        yield "solver", f"{name} needs an EDM checkpoint and this one is not"
    if not traits.is_edm and schedule.edm is not None:
        yield "solver", f"{name} cannot run an EDM checkpoint; edm_euler and edm_dpmpp_2m can"
    if schedule.edm is not None and asked.boundary is not None:
        yield "boundary", "an EDM checkpoint has no timesteps to cut at"
    if schedule.prediction_type in traits.refused_predictions:
        yield "solver", f"{name} does not take a model that predicts {schedule.prediction_type}"
    if (schedule.clip_sample and traits.clips) or (schedule.thresholding and traits.thresholds):
        yield "solver", f"{name} would have to clip as this checkpoint states, and never does"
