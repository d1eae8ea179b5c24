"""How the learning rate changes over a job: diffusers' schedules by their names."""

from collections.abc import Mapping
from typing import Any

from diffusers.optimization import get_scheduler
from schedulefree import AdamWScheduleFree
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from diptych.errors import CheckpointInvalid, InvalidRequest
from diptych.training.optimizer_rules import lr_schedule_violations
from diptych.training.spec import LrScheduleSpec

__all__ = ["load_lr_schedule_state", "lr_schedule_state", "make_lr_schedule"]


def make_lr_schedule(spec: LrScheduleSpec, optimizer: Optimizer, *, num_steps: int) -> LRScheduler:
    """Return the schedule of an optimizer that has made no step; it is told once a step.

    It multiplies each group's own learning rate. A schedule-free optimizer does its warm-up
    itself, so that its learning rate is constant here.

    Args:
        spec: What is asked for.
        optimizer: Of the job; its groups' learning rates are those of step 0 from here on.
        num_steps: Optimizer steps of the whole job.

    Raises:
        InvalidRequest: Options that the schedule does not have, or a warm-up that never ends.
    """
    if violations := lr_schedule_violations(spec, num_steps):
        raise InvalidRequest(violations)
    if isinstance(optimizer, AdamWScheduleFree):
        spec = LrScheduleSpec(name="constant")
    schedule: LRScheduler = get_scheduler(
        spec.name,
        optimizer,
        num_warmup_steps=spec.num_warmup_steps,
        num_training_steps=num_steps,
        num_cycles=spec.num_cycles,
        power=spec.power,
    )
    return schedule


def lr_schedule_state(schedule: LRScheduler) -> dict[str, Any]:
    """Return where a schedule stands, as plain JSON."""
    return schedule.state_dict()


def load_lr_schedule_state(schedule: LRScheduler, plain: Mapping[str, Any]) -> None:
    """Bring a schedule, made of the same spec, to where another stood.

    The optimizer's own state holds the learning rates of the next step: load it too.

    Raises:
        CheckpointInvalid: The state is not one.
    """
    try:
        schedule.load_state_dict(dict(plain))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointInvalid("learning-rate schedule", f"cannot be read: {error}") from error
