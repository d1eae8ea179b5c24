"""Which experts a job trains, and on which timesteps: where a stage becomes a range."""

from dataclasses import dataclass
from typing import Literal

from diptych.diffusion.split import base_timesteps, refiner_timesteps
from diptych.training.spec import JobSpec

__all__ = ["ExpertPlan", "expert_plans"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertPlan:
    """One network that a job trains."""

    expert: Literal["base", "refiner", "single"]
    source: str
    """The model it starts from."""
    first_timestep: int
    last_timestep: int
    """Included."""

    @property
    def timesteps(self) -> range:
        """Return the timesteps it is trained on, ascending."""
        return range(self.first_timestep, self.last_timestep + 1)


def expert_plans(spec: JobSpec, *, num_train_timesteps: int = 1000) -> tuple[ExpertPlan, ...]:
    """Return the experts of a job in the order in which they are trained.

    Raises:
        InvalidRequest: The boundary is missing, or not strictly between 0 and 1.
    """
    model = spec.model
    if spec.stage == "single":
        return (_plan("single", model.source, range(num_train_timesteps)),)
    boundary = float("nan") if spec.boundary is None else spec.boundary
    base = _plan("base", model.source, base_timesteps(num_train_timesteps, boundary))
    refiner_source = model.source if spec.stage == "refiner" else model.refiner or model.source
    refiner = _plan("refiner", refiner_source, refiner_timesteps(num_train_timesteps, boundary))
    return {"base": (base,), "refiner": (refiner,), "both": (base, refiner)}[spec.stage]


def _plan(
    expert: Literal["base", "refiner", "single"], source: str, timesteps: range
) -> ExpertPlan:
    return ExpertPlan(
        expert=expert,
        source=source,
        first_timestep=timesteps[0],
        last_timestep=timesteps[-1],
    )
