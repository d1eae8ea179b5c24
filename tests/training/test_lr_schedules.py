"""Learning rates are diffusers' by name, step by step, and go on exactly from a saved place."""

import json
from typing import Any

import pytest
import torch
from diffusers.optimization import get_scheduler
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from diptych.errors import CheckpointInvalid, InvalidRequest
from diptych.training.lr_schedules import (
    load_lr_schedule_state,
    lr_schedule_state,
    make_lr_schedule,
)
from diptych.training.optimizer_state import load_optimizer_state, optimizer_state
from diptych.training.optimizers import make_optimizer
from diptych.training.spec import LrScheduleSpec, OptimizerName, OptimizerSpec
from diptych.training.trainables.trainable import ParameterGroup

SPECS = [
    LrScheduleSpec(name="constant"),
    LrScheduleSpec(name="constant_with_warmup", num_warmup_steps=4),
    LrScheduleSpec(name="linear", num_warmup_steps=3),
    LrScheduleSpec(name="cosine"),
    LrScheduleSpec(name="cosine_with_restarts", num_warmup_steps=2, num_cycles=3.0),
    LrScheduleSpec(name="polynomial", power=2.0),
]
NUM_STEPS = 20


def optimizer(name: OptimizerName = "adamw") -> Optimizer:
    groups = [
        ParameterGroup(name="unet", parameters=[nn.Parameter(torch.ones(2))]),
        ParameterGroup(name="text", parameters=[nn.Parameter(torch.ones(2))], learning_rate=1e-5),
    ]
    return make_optimizer(OptimizerSpec(name=name, learning_rate=1e-3), groups)


def lrs(made: Optimizer, schedule: LRScheduler, num: int) -> list[list[float]]:
    """Return the learning rates of ``num`` steps, made."""
    told = []
    for _ in range(num):
        told.append([group["lr"] for group in made.param_groups])
        for group in made.param_groups:
            group["params"][0].grad = torch.ones(2)
        made.step()
        schedule.step()
    return told


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_learning_rates_are_those_of_diffusers(spec: LrScheduleSpec) -> None:
    ours, theirs = optimizer(), optimizer()
    reference: Any = get_scheduler(
        spec.name,
        theirs,
        num_warmup_steps=spec.num_warmup_steps,
        num_training_steps=NUM_STEPS,
        num_cycles=int(spec.num_cycles),
        power=spec.power,
    )
    schedule = make_lr_schedule(spec, ours, num_steps=NUM_STEPS)
    assert lrs(ours, schedule, NUM_STEPS) == lrs(theirs, reference, NUM_STEPS)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_a_schedule_goes_on_exactly(spec: LrScheduleSpec) -> None:
    whole = optimizer()
    expected = lrs(whole, make_lr_schedule(spec, whole, num_steps=NUM_STEPS), NUM_STEPS)
    first = optimizer()
    schedule = make_lr_schedule(spec, first, num_steps=NUM_STEPS)
    lrs(first, schedule, 7)
    text = json.dumps(lr_schedule_state(schedule), allow_nan=False)
    second = optimizer()
    again = make_lr_schedule(spec, second, num_steps=NUM_STEPS)
    load_optimizer_state(second, *optimizer_state(first))
    load_lr_schedule_state(again, json.loads(text))
    assert lrs(second, again, NUM_STEPS - 7) == expected[7:]


def test_a_schedule_free_optimizer_keeps_its_learning_rate() -> None:
    made = optimizer("schedule_free_adamw")
    spec = LrScheduleSpec(name="constant_with_warmup", num_warmup_steps=4)
    assert lrs(made, make_lr_schedule(spec, made, num_steps=9), 9) == [[1e-3, 1e-5]] * 9


@pytest.mark.parametrize(
    "spec",
    [
        LrScheduleSpec(name="cosine", power=2.0),
        LrScheduleSpec(name="linear", num_warmup_steps=NUM_STEPS),
    ],
)
def test_refuses_what_a_schedule_cannot_do(spec: LrScheduleSpec) -> None:
    with pytest.raises(InvalidRequest, match="lr_schedule"):
        make_lr_schedule(spec, optimizer(), num_steps=NUM_STEPS)


def test_refuses_what_is_no_state() -> None:
    schedule = make_lr_schedule(SPECS[2], optimizer(), num_steps=NUM_STEPS)
    with pytest.raises(CheckpointInvalid, match="learning-rate schedule"):
        load_lr_schedule_state(schedule, {"last_epoch": 3})
