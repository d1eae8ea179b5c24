"""Which experts a job trains, and on which timesteps: where a stage becomes a range."""

from dataclasses import dataclass
from typing import Final, Literal

from diptych.diffusion.split import base_timesteps, refiner_timesteps
from diptych.errors import FieldViolation, InvalidRequest
from diptych.training.spec import JobSpec

__all__ = ["Expert", "ExpertPlan", "expert_plans", "expert_sources", "reads_trained_texts"]

Expert = Literal["base", "refiner", "single"]

_WHOLE_NANO: Final = "nano/base-single"
"""What the experts of the nano pair were made from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertPlan:
    """One network that a job trains."""

    expert: Expert
    source: str
    """The model it starts from."""
    first_timestep: int
    last_timestep: int
    """Included."""

    @property
    def timesteps(self) -> range:
        """Return the timesteps it is trained on, ascending."""
        return range(self.first_timestep, self.last_timestep + 1)


def expert_sources(spec: JobSpec) -> dict[Expert, str]:
    """Return the models that a job's experts start from, in the order in which they are trained."""
    source = spec.model.source
    if spec.stage == "single":
        return {"single": _WHOLE_NANO if source == "nano" else source}
    if spec.stage == "both":
        return {"base": source, "refiner": spec.model.refiner or source}
    return {spec.stage: source}


def reads_trained_texts(spec: JobSpec, expert: Expert) -> bool:
    """Return whether an expert reads prompts as the one before it taught the encoders to.

    An adapter of both stages has one update of each encoder: the base's expert trains it, and the
    refiner is trained with it as it is.
    """
    is_beside = spec.stage == "both" and expert == "refiner"
    return is_beside and spec.method != "full" and spec.text_encoders.method == "lora"


def expert_plans(spec: JobSpec, *, num_train_timesteps: int = 1000) -> tuple[ExpertPlan, ...]:
    """Return the experts of a job in the order in which they are trained.

    Raises:
        InvalidRequest: The boundary is missing, not strictly between 0 and 1, or so near to either
            that one of the two has no timestep.
    """
    ranges: dict[Expert, range] = {"single": range(num_train_timesteps)}
    if spec.stage != "single":
        boundary = float("nan") if spec.boundary is None else spec.boundary
        ranges["base"] = base_timesteps(num_train_timesteps, boundary)
        ranges["refiner"] = refiner_timesteps(num_train_timesteps, boundary)
    if empty := [expert for expert, timesteps in ranges.items() if not timesteps]:
        description = f"{spec.boundary} leaves the {empty[0]} no timestep"
        raise InvalidRequest([FieldViolation(field="boundary", description=description)])
    return tuple(
        ExpertPlan(
            expert=expert,
            source=source,
            first_timestep=ranges[expert][0],
            last_timestep=ranges[expert][-1],
        )
        for expert, source in expert_sources(spec).items()
    )
