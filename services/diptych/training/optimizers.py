"""The optimizers by name, each from the library that keeps it well.

A library is imported when an optimizer of its is made: transformers' alone takes seconds.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import torch
from schedulefree import AdamWScheduleFree
from torch.optim import AdamW, Optimizer

from diptych.errors import ExtraMissing, InvalidRequest
from diptych.training.optimizer_rules import learning_rate_of, optimizer_violations
from diptych.training.spec import LrScheduleSpec, OptimizerName, OptimizerSpec, ProdigySpec
from diptych.training.trainables.trainable import ParameterGroup

__all__ = ["averaged_weights", "make_optimizer"]

_FUSED_DEVICES = frozenset({"cpu", "cuda", "mps", "xpu"})
"""Where torch has one kernel for AdamW's whole step."""

Group = dict[str, Any]


def make_optimizer(
    spec: OptimizerSpec,
    groups: Sequence[ParameterGroup],
    *,
    lr_schedule: LrScheduleSpec | None = None,
) -> Optimizer:
    """Return the optimizer of a job, ready to train; its groups carry their names.

    Weight decay is decoupled from the gradient and scaled by the learning rate in all of them
    (Loshchilov and Hutter 2019), but for Prodigy with ``decouple`` off.

    Args:
        spec: What is asked for; options that are None take the library's own defaults.
        groups: What is trained, each parameter in one of them.
        lr_schedule: The job's: a schedule-free optimizer does its warm-up itself.

    Raises:
        InvalidRequest: Options that do not go together; every violation at once.
        ExtraMissing: 8-bit AdamW, and bitsandbytes is not installed.
    """
    lr_schedule = LrScheduleSpec() if lr_schedule is None else lr_schedule
    lrs = {group.name: group.learning_rate for group in groups}
    if violations := optimizer_violations(spec, lr_schedule, lrs):
        raise InvalidRequest(violations)
    assert all(p.dtype == torch.float32 for group in groups for p in group.parameters)
    optimizer = _MAKERS[spec.name]([_group(spec, group) for group in groups], spec, lr_schedule)
    if isinstance(optimizer, AdamWScheduleFree):
        optimizer.train()
    return optimizer


@contextmanager
def averaged_weights(optimizer: Optimizer) -> Iterator[None]:
    """Hold the weights that a schedule-free optimizer would have exported, in place.

    Training goes on from the very bits that it had: the library's own way back is a second
    interpolation, which rounds. Of every other optimizer the weights stay as they are.
    """
    if not isinstance(optimizer, AdamWScheduleFree):
        yield
        return
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    trained = [p.detach().clone() for p in parameters]
    optimizer.eval()
    try:
        yield
    finally:
        optimizer.train()
        with torch.no_grad():
            for parameter, before in zip(parameters, trained, strict=True):
                parameter.copy_(before)


def _group(spec: OptimizerSpec, group: ParameterGroup) -> Group:
    made: Group = {
        "params": list(group.parameters),
        "name": group.name,
        "lr": learning_rate_of(spec, group.learning_rate),
    }
    decay = spec.weight_decay if group.weight_decay is None else group.weight_decay
    return made if decay is None else made | {"weight_decay": decay}


def _given(spec: OptimizerSpec) -> dict[str, Any]:
    """Return the learning rate and what else was asked for, by the libraries' common names."""
    asked = {"lr": learning_rate_of(spec), "betas": spec.betas, "eps": spec.eps}
    return {name: value for name, value in asked.items() if value is not None}


def _adamw(groups: list[Group], spec: OptimizerSpec, _: LrScheduleSpec) -> Optimizer:
    return AdamW(groups, **_given(spec), fused=_devices(groups) <= _FUSED_DEVICES)


def _adamw_8bit(groups: list[Group], spec: OptimizerSpec, _: LrScheduleSpec) -> Optimizer:
    try:
        # Loads a native library of its own, which takes a second and is not on every platform.
        from bitsandbytes.optim.adamw import AdamW8bit  # noqa: PLC0415
    except ImportError as error:
        raise ExtraMissing(extra="training", needed_for="the optimizer adamw_8bit") from error
    made: Optimizer = AdamW8bit(groups, **_given(spec))  # type: ignore[no-untyped-call]
    return made


def _adafactor(groups: list[Group], spec: OptimizerSpec, _: LrScheduleSpec) -> Optimizer:
    """Make the one of transformers, with which a learning rate means what it says.

    torch's multiplies it by each tensor's own size, so that LoRA's B, which begins at zero, would
    move a thousand times more slowly than A.
    """
    from transformers.optimization import Adafactor  # noqa: PLC0415 - brings all of a trainer

    options = _given(spec) | {"scale_parameter": False, "relative_step": False}
    return Adafactor(groups, **options)  # type: ignore[no-untyped-call]


def _lion(groups: list[Group], spec: OptimizerSpec, _: LrScheduleSpec) -> Optimizer:
    from optimi import Lion  # noqa: PLC0415 - brings Triton's kernels

    options = _given(spec) | {"kahan_sum": False, "triton": _has_triton(groups)}
    made: Optimizer = Lion(groups, **options)
    return made


def _stable_adamw(groups: list[Group], spec: OptimizerSpec, _: LrScheduleSpec) -> Optimizer:
    from optimi import StableAdamW  # noqa: PLC0415 - brings Triton's kernels

    made: Optimizer = StableAdamW(
        groups, **_given(spec), kahan_sum=False, triton=_has_triton(groups)
    )
    return made


def _has_triton(groups: list[Group]) -> bool | None:
    """Return None, optimi's own choice, on GPUs alone: on CPUs it picks kernels that cannot run."""
    return None if _devices(groups) == {"cuda"} else False


def _devices(groups: list[Group]) -> set[str]:
    return {p.device.type for group in groups for p in group["params"]}


def _prodigy(groups: list[Group], spec: OptimizerSpec, _: LrScheduleSpec) -> Optimizer:
    from prodigyopt import Prodigy  # noqa: PLC0415 - of this optimizer alone

    own = ProdigySpec() if spec.prodigy is None else spec.prodigy
    made: Optimizer = Prodigy(
        groups,
        **_given(spec),
        beta3=own.beta3,
        decouple=own.decouple,
        use_bias_correction=own.use_bias_correction,
        safeguard_warmup=own.safeguard_warmup,
        d0=own.d0,
        d_coef=own.d_coef,
        growth_rate=own.growth_rate,
    )
    return made


def _schedule_free(
    groups: list[Group], spec: OptimizerSpec, lr_schedule: LrScheduleSpec
) -> Optimizer:
    made: Optimizer = AdamWScheduleFree(
        groups, **_given(spec), warmup_steps=lr_schedule.num_warmup_steps
    )
    return made


_Maker = Callable[[list[Group], OptimizerSpec, LrScheduleSpec], Optimizer]
_MAKERS: Final[Mapping[OptimizerName, _Maker]] = {
    "adamw": _adamw,
    "adamw_8bit": _adamw_8bit,
    "adafactor": _adafactor,
    "lion": _lion,
    "prodigy": _prodigy,
    "schedule_free_adamw": _schedule_free,
    "stable_adamw": _stable_adamw,
}
