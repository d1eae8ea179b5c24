"""All that changes while an expert is trained, and its checkpoint there and back.

No state of a random number generator is among it: every draw is named by the step it is for.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from diptych.datasets.sampling import Position
from diptych.errors import CheckpointInvalid
from diptych.training.checkpoints import Checkpoint
from diptych.training.ema import Ema
from diptych.training.experts import ExpertPlan
from diptych.training.lr_schedules import (
    load_lr_schedule_state,
    lr_schedule_state,
    make_lr_schedule,
)
from diptych.training.optimizer_state import load_optimizer_state, optimizer_state
from diptych.training.optimizers import averaged_weights, make_optimizer
from diptych.training.spec import JobSpec
from diptych.training.timestep_counts import TimestepCounts
from diptych.training.trainables.trainable import Trainable

__all__ = ["RESULT", "ExpertState"]

_COUNTS: Final = "counts"
RESULT: Final = "result"
"""Part of a finished expert's checkpoint: what is exported, where that is an average of weights."""


class ExpertState:
    """Weights, optimizer, schedule, average and place of one expert; owned by its loop."""

    def __init__(
        self,
        trainable: Trainable,
        spec: JobSpec,
        plan: ExpertPlan,
        *,
        place: int,
        num_steps: int,
        accelerator: Accelerator,
    ) -> None:
        """Begin at step 0.

        Args:
            trainable: What is trained, on the accelerator's device and as it prepared it.
            spec: The job's.
            plan: The expert's.
            place: Of the expert in the order in which the job trains them, from 0.
            num_steps: Optimizer steps until the expert is trained.
            accelerator: Joins the processes that train.

        Raises:
            InvalidRequest: The optimizer or the schedule is asked for what it has not.
            ExtraMissing: The optimizer is not installed.
        """
        groups = trainable.groups
        self.trainable, self.plan, self.num_steps = trainable, plan, num_steps
        self.names: Final = [group.name for group in groups]
        self.parameters: Final = [one for group in groups for one in group.parameters]
        self.optimizer = make_optimizer(spec.optimizer, groups, lr_schedule=spec.lr_schedule)
        self.lr_schedule = make_lr_schedule(spec.lr_schedule, self.optimizer, num_steps=num_steps)
        is_scaled = spec.run.precision == "fp16"
        self.scaler = torch.amp.GradScaler(accelerator.device.type, enabled=is_scaled)
        self.ema = None if spec.run.ema is None else Ema(self.parameters, spec.run.ema)
        self.counts = TimestepCounts(plan.timesteps)
        self._is_averaged = self.ema is not None or spec.optimizer.name == "schedule_free_adamw"
        self.step = 0
        self.position = Position()
        self._place, self._accelerator = place, accelerator

    @property
    def learning_rates(self) -> Mapping[str, float]:
        """Return the learning rate of each group; of Prodigy, with the factor it found."""
        rates = [group["lr"] * group.get("d", 1.0) for group in self.optimizer.param_groups]
        return dict(zip(self.names, map(float, rates), strict=True))

    def checkpoint(self) -> Checkpoint:
        """Return where training stands; every process must ask, as weights may be spread."""
        tensors, text = optimizer_state(self.optimizer)
        parts = {
            "weights": self.trainable.state(),
            "optimizer": _whole(tensors),
            _COUNTS: {_COUNTS: self.all_counts()},
        }
        if self.ema is not None:
            parts["ema"] = _whole(self.ema.state())
        if self.step >= self.num_steps and self._is_averaged:
            average = averaged_weights(self.optimizer) if self.ema is None else self.ema.swapped()
            with average:
                parts[RESULT] = self.trainable.state()
        return Checkpoint(
            expert=self.plan.expert,
            place=self._place,
            step=self.step,
            position=self.position,
            is_finished=self.step >= self.num_steps,
            tensors=parts,
            values={
                "optimizer": text,
                "lr_schedule": lr_schedule_state(self.lr_schedule),
                "scaler": self.scaler.state_dict(),
                "num_threads": torch.get_num_threads(),
            },
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint of this expert.

        On a CPU sums depend on the number of threads, so that is set as it was, too.

        Raises:
            CheckpointInvalid: It is another's.
        """
        parts, values = checkpoint.tensors, checkpoint.values
        try:
            self.trainable.load_state(parts["weights"])
            optimizer = _spread_states(parts["optimizer"], self.parameters)
            load_optimizer_state(self.optimizer, optimizer, values["optimizer"])
            load_lr_schedule_state(self.lr_schedule, values["lr_schedule"])
            if self.scaler.is_enabled():
                self.scaler.load_state_dict(values["scaler"])
            if self.ema is not None:
                self.ema.load_state(_spread_by_number(parts["ema"], self.parameters))
            if self._accelerator.is_main_process:
                self.counts.add_counts(parts[_COUNTS][_COUNTS])
            if self._accelerator.device.type == "cpu":
                torch.set_num_threads(values["num_threads"])
        except KeyError as error:
            raise CheckpointInvalid(checkpoint.name, f"has no {error}") from error
        self.step, self.position = checkpoint.step, checkpoint.position

    def all_counts(self) -> Tensor:
        """Return how often all processes trained each timestep of the range, int64."""
        own = self.counts.counts.to(self._accelerator.device)
        total: Tensor = self._accelerator.reduce(own, "sum")
        return total.cpu()


def _whole(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors of which a device mesh may have spread some."""
    return {
        name: one.full_tensor() if isinstance(one, DTensor) else one
        for name, one in tensors.items()
    }


def _spread_by_number(
    tensors: Mapping[str, Tensor], parameters: Sequence[Tensor]
) -> dict[str, Tensor]:
    """Return tensors that are named by their parameter's number, spread as it is."""
    return {
        name: _spread(one, parameters[int(name)]) if name.isdigit() else one
        for name, one in tensors.items()
    }


def _spread_states(
    tensors: Mapping[str, Tensor], parameters: Sequence[Tensor]
) -> dict[str, Tensor]:
    """Return an optimizer's tensors, those of a parameter's shape spread as it is."""
    found: dict[str, Any] = {}
    for name, one in tensors.items():
        numbers = [int(part) for part in name.split("/") if part.isdigit()]
        parameter = parameters[numbers[0]] if numbers else one
        found[name] = _spread(one, parameter) if one.shape == parameter.shape else one
    return found


def _spread(tensor: Tensor, like: Tensor) -> Tensor:
    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)
